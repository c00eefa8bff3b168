"""Choosing the mails of an mbox file that are the series, and refusing what is not one series."""

from __future__ import annotations

import base64
import quopri
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mails import ANN, BOB, FORMAT_PATCH, diff, load, mail, patch, posting, subjects, titles

from harness.lib.errors import ApplyError, UsageError
from harness.series import mbox, series
from harness.series.choose import Chosen, choose
from harness.series.mail import Mail
from harness.series.mbox import NotASeriesError

MIXED = "Content-Type: multipart/mixed; boundary=b\n"


def parts(count: int = 2) -> list[str]:
    return [f"vfio: part {number}" for number in range(1, count + 1)]


def quoted(text: str) -> str:
    return "".join(f"> {line}\n" for line in text.splitlines())


def refusal_of(folder: Path, mails: list[bytes], revision: str | None = None) -> str:
    with pytest.raises(UsageError) as refusal:
        load(folder, mails, revision)
    assert str(refusal.value).isprintable()
    return str(refusal.value)


# --- tags


@pytest.mark.parametrize(
    "tags",
    [
        "[PATCH {}]",
        "[PATCHv3 {}]",
        "[PATCH V3 {}]",
        "[RFC v3 {}]",
        "[RFC {}]",
        "[v3,{}]",
        "[RESEND v3 {}]",
        "[RFC][PATCH v3 {}]",
        "[PATCH][RFC {}]",
        "[PATCH vfio-next v3 {}]",
        "[PATCH v3 RESEND {}]",
        "[PATCH take#3 {}]",
        "[PATCH 6.1/5.15 {}]",
        "[PATCH 5.10.y {}]",
        "[A-list] [PATCH v3 {}]",
        "[A-list] [other.list] [PATCH v3 {}]",
    ],
)
def test_mails_with_each_kind_of_tag_are_a_series(tmp_path: Path, tags: str) -> None:
    cover, *patches = posting(tags)
    answer = mail(
        f"[A-list] Re: {tags.format('1/2')} vfio: part 1", quoted(diff(10)) + "No.\n", to="1", name="r"
    )
    loaded = load(tmp_path, [patches[1], answer, cover, patches[0]])
    assert (loaded.title, titles(loaded)) == ("vfio: all", parts())
    assert loaded.posting.notes == ()
    assert loaded.posting.revision == (3 if "3" in tags else 1)
    assert loaded.posting.rfc == ("RFC" in tags)
    assert loaded.posting.message_id == "0@example.org"


def test_mails_with_kept_subjects_keep_their_order(tmp_path: Path) -> None:
    mails = [
        mail("vfio: z", patch(10), first=FORMAT_PATCH),
        mail("[media] vfio: b", patch(20), first=FORMAT_PATCH, sender=BOB),
        mail("x86/mm: a", patch(30), first=FORMAT_PATCH),
    ]
    loaded = load(tmp_path, mails)
    assert subjects(loaded) == ["vfio: z", "[media] vfio: b", "x86/mm: a"]
    assert [one.content for one in loaded.patches] == mails


def test_mails_of_a_threaded_format_patch_are_a_series(tmp_path: Path) -> None:
    mails = [
        mail("[PATCH] vfio: a", patch(10), first=FORMAT_PATCH, name="1"),
        mail("[PATCH] vfio: b", patch(20), first=FORMAT_PATCH, name="2", to="1"),
    ]
    assert titles(load(tmp_path, mails)) == ["vfio: a", "vfio: b"]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("cover", [False, True])
def test_mails_in_any_order_are_the_same_series(tmp_path: Path, deep: bool, cover: bool) -> None:
    to = ["", "1", "2", "3"] if deep else ["", "1", "1", "1"]
    first = [mail("[PATCH 0/4] vfio: all", name="0")] if cover else []
    mails = first + [
        mail(
            f"[PATCH {number}/4] vfio: part {number}",
            patch(10 * number),
            name=str(number),
            to="0" if cover and (number == 1 or not deep) else to[number - 1],
        )
        for number in range(1, 5)
    ]
    one, other = load(tmp_path, mails), load(tmp_path, mails[::-1])
    assert titles(one) == parts(4)
    assert (one.patches, one.title, one.posting) == (other.patches, other.title, other.posting)


@pytest.mark.parametrize(
    ("subject", "sender", "title"),
    [
        ("[PATCH v2] vfio: all", ANN, "vfio: all"),
        ("vfio: all", ANN, "vfio: all"),
        ("vfio: a question", BOB, "vfio: part 1"),
        ("[PATCH] vfio: all of v1", ANN, "vfio: part 1"),
        ("[PATCH 0/1] vfio: all of v1", ANN, "vfio: part 1"),
        ("Re: vfio: a question", ANN, "vfio: part 1"),
    ],
)
def test_mails_in_answer_to_a_mail_may_have_its_title(
    tmp_path: Path, subject: str, sender: str, title: str
) -> None:
    first = mail(subject, name="0", sender=sender)
    loaded = load(tmp_path, [first, *posting("[PATCH v2 {}]")[1:]])
    assert (loaded.title, titles(loaded)) == (title, parts())


# --- what is no patch


@pytest.mark.parametrize(
    "mails",
    [
        [
            mail(
                "Re: [PATCH 1/2] vfio: part 1",
                "Looks good.\n" + quoted(diff(10)),
                name="r",
                to="1",
                sender=BOB,
            )
        ],
        [mail("[PATCH 1/2] vfio: part 1", "> Why it is done.\nLooks good.\n", name="r", to="1", sender=BOB)],
        [mail("Applied, thanks", name="r", to="0", sender=BOB)],
        [mail("Out of office")],
        [mail("[GIT PULL] VFIO updates", "are available in the Git repository at:\n", name="p", sender=BOB)],
        [mail("[syzbot] INFO: task hung", name="s")],
    ],
)
def test_mails_without_a_diff_are_left_out(tmp_path: Path, mails: list[bytes]) -> None:
    loaded = load(tmp_path, [*mails, *posting()])
    assert titles(loaded) == parts()
    assert loaded.posting.notes == ()


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (mail("Re: [PATCH 2/2] vfio: part 2", patch(40), name="c", to="2", sender=BOB), "<c@example.org>"),
        (mail("[PATCH] selftests: x", patch(40), name="c", to="2"), "'[PATCH] selftests: x'"),
        (mail("[PATCH] vfio: fix cocci", patch(40), name="c", to="1", sender=BOB), "vfio: fix cocci"),
        (mail("[PATCH 3/2] vfio: more", patch(40), name="c", to="0"), "[PATCH 3/2] vfio: more"),
        (mail("[tip: x86/mm] vfio: part 1", patch(10), name="c", to="1", sender=BOB), "[tip: x86/mm]"),
        (
            mail("[PATCH 1/1] vfio: otherwise", patch(10, "o"), name="c", to="1", sender=BOB),
            "vfio: otherwise",
        ),
        (mail("vfio: part 2", patch(20), first=FORMAT_PATCH), "vfio: part 2"),
    ],
)
def test_mails_beside_the_series_are_named(tmp_path: Path, extra: bytes, named: str) -> None:
    loaded = load(tmp_path, [extra, *posting()])
    assert titles(loaded) == parts()
    (note,) = loaded.posting.notes
    assert note.startswith("Left out: ")
    assert named in note


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Type: multipart/mixed; boundary*=us-ascii''x; boundary*0=y\n",
        "Content-Type: text/plain; charset*=us-ascii''x; charset*0=y\nContent-Transfer-Encoding: base64\n",
    ],
)
def test_mails_with_a_parameter_given_twice_hold_no_diff(tmp_path: Path, headers: str) -> None:
    assert Mail(mail("[PATCH] vfio: x", "YQo=\n", headers=headers)).text == b""


def test_mails_of_a_series_in_answer_are_left_out(tmp_path: Path) -> None:
    other = posting("[PATCH v5 {}]", 3, prefix="b", to="2")
    other = [
        one.replace(b"Ann Author", b"Bob").replace(b"ann@", b"bob@").replace(b"vfio: ", b"mm: ")
        for one in other
    ]
    loaded = load(tmp_path, [*other, *posting()])
    assert (titles(loaded), loaded.posting.revision) == (parts(), 1)
    assert "[PATCH v5 0/3] mm: all" in loaded.posting.notes[0]


@pytest.mark.parametrize("to", ["", "1", "elsewhere"])
def test_mails_with_the_subject_of_a_patch_are_no_patches(tmp_path: Path, to: str) -> None:
    first = mail("[PATCH] vfio: do it", patch(10), name="1")
    answer = mail("[PATCH] vfio: do it", "Looks good.\n", name="r", to=to, sender=BOB)
    for mails in ([first, answer], [answer, first]):
        assert [one.content for one in load(tmp_path, mails).patches] == [first]


# --- copies


@pytest.mark.parametrize("copies", [2, 3])
def test_mails_with_one_message_id_are_one_mail(tmp_path: Path, copies: int) -> None:
    assert titles(load(tmp_path, posting() * copies)) == parts()


def test_mails_with_the_footer_of_a_list_are_copies(tmp_path: Path) -> None:
    footer = b"_______________________________________________\nA-list mailing list -- a-list@example.org\n"
    copies = [one.replace(b"Subject: [", b"Subject: [A-list] [") + footer for one in posting()]
    one, other = load(tmp_path, [*copies, *posting()]), load(tmp_path, [*posting(), *copies])
    assert titles(one) == parts()
    assert one.patches == other.patches


def test_mails_from_the_sender_are_preferred_to_those_of_a_list(tmp_path: Path) -> None:
    munged = [
        one.replace(b"Ann Author <ann@example.org>\nDate", b"A via L <l@e.org>\nDate") for one in posting()
    ]
    for mails in ([*munged, *posting()], [*posting(), *munged]):
        assert [one.content for one in load(tmp_path, mails).patches] == posting()[1:]


@pytest.mark.parametrize("to", ["2", "0"])
def test_mails_that_repeat_a_patch_are_left_out(tmp_path: Path, to: str) -> None:
    again = mail("[PATCH 2/2] vfio: part 2", "Fine.\n\n" + patch(20), name="9", to=to, sender=BOB)
    for mails in ([again, *posting()], [*posting(), again]):
        loaded = load(tmp_path, mails)
        assert [one.content for one in loaded.patches] == posting()[1:]
        assert "<9@example.org>, which repeats a patch unchanged" in loaded.posting.notes[0]


def test_mails_sent_again_changed_are_refused(tmp_path: Path) -> None:
    again = [one.replace(b"changed_10", b"other") for one in posting("[PATCH RESEND {}]", prefix="again")]
    message = refusal_of(tmp_path, [*posting(), *again])
    assert "patch 1/2 twice" in message
    assert "<again1@example.org>" in message


def test_mails_numbered_in_two_ways_are_refused(tmp_path: Path) -> None:
    assert "numbered in two ways" in refusal_of(tmp_path, [*posting(), *posting(count=3, prefix="b")])


def test_mails_sent_again_unchanged_are_a_series(tmp_path: Path) -> None:
    again = posting("[PATCH RESEND {}]", prefix="again")
    loaded = load(tmp_path, [*posting(), *again])
    assert titles(loaded) == parts()


# --- two proposals


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (mail("[PATCH] vfio: otherwise", patch(20), name="2", to="1", sender=BOB), "two proposals"),
        (mail("[PATCH] vfio: also this", patch(20), name="2", to="1"), "two proposals"),
        (mail("[PATCH] vfio: fix it", patch(10, "o"), name="2"), "two patches with one subject"),
        (mail("[PATCH] mm: fix it", patch(20), name="2", sender=BOB), "several senders"),
        (
            mail("[RFC] vfio: otherwise", patch(20), name="2", to="1", sender=BOB),
            "not numbered as one series",
        ),
        (mail("[PATCH 1/1] vfio: otherwise", patch(20), name="2", sender=BOB), "not numbered as one series"),
    ],
)
def test_mails_of_two_proposals_are_refused(tmp_path: Path, second: bytes, says: str) -> None:
    first = mail("[PATCH] vfio: fix it", patch(10), name="1")
    for mails in ([first, second], [second, first]):
        message = refusal_of(tmp_path, mails)
        assert says in message
        assert "<1@example.org>" in message
        assert "<2@example.org>" in message


def test_mails_of_a_discussion_between_proposals_count(tmp_path: Path) -> None:
    mails = [
        mail("[PATCH] vfio: fix it", patch(10), name="1"),
        mail("Re: [PATCH] vfio: fix it", "No.\n", name="r", to="1", sender=BOB),
        mail("[PATCH] vfio: fix it better", patch(20), name="2", to="r"),
    ]
    assert "two proposals" in refusal_of(tmp_path, mails)


def test_mails_of_one_patch_with_another_content_are_refused(tmp_path: Path) -> None:
    other = mail("[PATCH 2/2] vfio: part 2", patch(20, "other"), name="o", to="2", sender=BOB)
    message = refusal_of(tmp_path, [*posting(), other])
    assert "patch 2/2 twice" in message
    assert "<2@example.org>" in message
    assert "<o@example.org>" in message


def test_mails_of_two_unrelated_series_are_refused(tmp_path: Path) -> None:
    other = posting("[PATCH v3 {}]", 3, prefix="b")
    other = [one.replace(b"vfio: ", b"mm: ") for one in other]
    message = refusal_of(tmp_path, [*posting(), *other])
    assert "'[PATCH 0/2] vfio: all' <0@example.org>" in message
    assert "'[PATCH v3 0/3] mm: all' <b0@example.org>" in message


def test_mails_of_two_series_with_a_common_title_are_refused(tmp_path: Path) -> None:
    other = posting("[PATCH v3 {}]", 3, prefix="b")
    other = [one.replace(b"vfio: ", b"mm: ").replace(b"mm: part 3", b"vfio: part 1") for one in other]
    other = [one.replace(b"Ann Author <ann@", b"Bob Builder <bob@") for one in other]
    assert "not numbered as one series" in refusal_of(tmp_path, [*posting(), *other])


def test_mails_in_a_circle_are_read(tmp_path: Path) -> None:
    mails = [
        mail(
            f"[PATCH {number}/3] vfio: part {number}",
            patch(10 * number),
            name=str(number),
            to=str(number % 3 + 1),
        )
        for number in (1, 2, 3)
    ]
    assert titles(load(tmp_path, mails)) == parts(3)


def test_mails_beyond_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.series.choose.MAX_MAILS", 2)
    assert "holds 3 mails, and 2 are the limit" in refusal_of(tmp_path, posting())


def test_mails_of_one_number_in_two_threads_are_not_mixed(tmp_path: Path) -> None:
    mails = [*posting()[:2], *[one.replace(b"vfio: ", b"mm: ") for one in posting(prefix="b")[::2]]]
    assert "not numbered as one series" in refusal_of(tmp_path, mails)


# --- revisions


def six_revisions() -> list[bytes]:
    tags = ("[RFC PATCH {}]", "[RFC v2 PATCH {}]", "[PATCH {}]", "[PATCH v2 {}]", "[PATCH v3 {}]")
    return [one for at, tag in enumerate(tags) for one in posting(tag, at + 1, prefix=f"p{at}-")]


@pytest.mark.parametrize(
    ("revision", "key", "count"),
    [
        (None, (3, False), 5),
        ("3", (3, False), 5),
        ("v2", (2, False), 4),
        ("1", (1, False), 3),
        ("RFC2", (2, True), 2),
        ("rfc2", (2, True), 2),
        ("RFC v1", (1, True), 1),
    ],
)
def test_mails_of_many_revisions_give_one(
    tmp_path: Path, revision: str | None, key: tuple[int, bool], count: int
) -> None:
    for mails in (six_revisions(), six_revisions()[::-1]):
        loaded = load(tmp_path, mails, revision)
        assert (loaded.posting.revision, loaded.posting.rfc) == key
        assert titles(loaded) == parts(count)
        said = "revisions RFC 1, RFC 2, 1, 2, 3. The newest, 3, is the series"
        assert (said in " ".join(loaded.posting.notes)) == (revision is None)


@pytest.mark.parametrize("revision", ["4", "RFC3"])
def test_mails_without_the_wanted_revision_are_refused(tmp_path: Path, revision: str) -> None:
    message = refusal_of(tmp_path, six_revisions(), revision)
    assert "what it holds is RFC 1, RFC 2, 1, 2, 3" in message


@pytest.mark.parametrize("revision", ["", "four", "v", "4.5", "-1", "RFC", "\x1b[2J"])
def test_mails_with_a_senseless_revision_are_refused(tmp_path: Path, revision: str) -> None:
    assert "no revision" in refusal_of(tmp_path, posting(), revision)


def test_mails_of_an_incomplete_revision_give_the_one_before(tmp_path: Path) -> None:
    loaded = load(tmp_path, [*posting(), *posting("[PATCH v2 {}]", 3, prefix="b")[:3]])
    assert (loaded.posting.revision, titles(loaded)) == (1, parts())
    assert "Revision 2 lacks patch 3 of 3, so revision 1" in loaded.posting.notes[0]


@pytest.mark.parametrize("revision", [None, "2"])
def test_mails_of_a_partial_reroll_are_refused(tmp_path: Path, revision: str | None) -> None:
    again = mail("[PATCH v2 2/2] vfio: part 2", patch(20, "better"), name="b2", to="2")
    message = refusal_of(tmp_path, [*posting(), again], revision)
    assert "`b4 am`" in message
    assert load(tmp_path, [*posting(), again], "1").posting.revision == 1


def test_mails_with_a_single_patch_posted_again_are_refused(tmp_path: Path) -> None:
    again = mail("[PATCH v2.1 2/2] vfio: part 2", patch(20, "better"), name="b2", to="2")
    message = refusal_of(tmp_path, [*posting("[PATCH v2 {}]"), again])
    assert "patch 2 of 2 was posted again alone ('[PATCH v2.1 2/2] vfio: part 2' <b2@example.org>)" in message
    assert "`b4 am`" in message


def test_mails_of_one_patch_posted_again_are_refused(tmp_path: Path) -> None:
    again = mail("[PATCH v2] vfio: part 1", patch(10, "better"), name="again", to="1")
    refusal = refusal_of(tmp_path, [*posting(), again])
    assert "revision 2 posts only one patch again ('[PATCH v2] vfio: part 1' <again@example.org>)" in refusal
    assert titles(load(tmp_path, [*posting(), again], "1")) == parts()


@pytest.mark.parametrize(
    ("single", "tags", "newest", "oldest"),
    [
        ("[PATCH v2]", "[PATCH {}]", ["vfio: part 1"], parts()),
        ("[PATCH]", "[PATCH v2 {}]", parts(), ["vfio: part 1"]),
        ("[RFC PATCH]", "[PATCH {}]", parts(), ["vfio: part 1"]),
    ],
)
def test_mails_of_one_patch_are_another_revision(
    tmp_path: Path, single: str, tags: str, newest: list[str], oldest: list[str]
) -> None:
    mails = [*posting(tags), mail(f"{single} vfio: part 1", patch(10, "other"), name="single")]
    loaded = load(tmp_path, mails)
    assert titles(loaded) == newest
    assert "The mails hold the revisions" in loaded.posting.notes[0]
    assert titles(load(tmp_path, mails, "RFC1" if "RFC" in single else "1")) == oldest


def test_mails_without_a_revision_in_answer_are_no_older_one(tmp_path: Path) -> None:
    again = mail("[PATCH] vfio: part 1", patch(10, "better"), name="again", to="1")
    loaded = load(tmp_path, [*posting("[PATCH v2 {}]"), again])
    assert titles(loaded) == parts()
    assert "Left out: the patch '[PATCH] vfio: part 1'" in loaded.posting.notes[0]


def test_mails_with_a_message_id_are_preferred(tmp_path: Path) -> None:
    ids = posting()
    copies = [b"\n".join(line for line in one.split(b"\n") if b"ID:" not in line) for one in ids]
    loaded = load(tmp_path, [*copies, *ids])
    assert [one.content for one in loaded.patches] == ids[1:]


def test_mails_for_a_release_with_a_point_are_a_series(tmp_path: Path) -> None:
    assert titles(load(tmp_path, posting("[PATCH v5.10 {}]"))) == parts()


def test_mails_with_the_sender_replaced_by_the_list_are_a_series(tmp_path: Path) -> None:
    via = [one.replace(b"Ann Author <ann@", b"Ann via L <l@") for one in posting()]
    other = mail("vfio: a question", name="q", sender="Bob via L <l@example.org>")
    loaded = load(tmp_path, [other, *[one.replace(b"<0@", b"<q@") for one in via[1:]]])
    assert loaded.title == "vfio: part 1"


def test_mails_of_revisions_of_one_patch_give_the_newest(tmp_path: Path) -> None:
    mails = [
        mail("[PATCH v2] vfio: fix it well", patch(20), name="2", to="1"),
        mail("[PATCH] vfio: fix it", patch(10), name="1"),
    ]
    assert subjects(load(tmp_path, mails)) == ["[PATCH v2] vfio: fix it well"]


# --- encodings


@pytest.mark.parametrize(
    "subject",
    [
        "[PATCH] vfio: prüfe Länge".encode(),
        "[PATCH] vfio: prüfe Länge".encode("latin-1"),
        b"=?UTF-8?q?=5BPATCH=5D_vfio=3A_pr=C3=BCfe_L=C3=A4nge?=",
        b"=?UTF-8?q?=5BPATCH=5D_vfio=3A_pr?=\n =?UTF-8?q?=C3=BCfe_L=C3=A4nge?=",
        b"[PATCH] vfio: =?iso-8859-1?Q?pr=FCfe?=\n\t=?utf-8?B?IEzDpG5nZQ==?=",
        b"[PATCH]\n vfio: =?UTF-8?Q?pr=C3?==?UTF-8?Q?=BCfe?= =?UTF-8?Q?_L=C3=A4nge?=",
    ],
)
def test_mails_with_each_encoding_of_a_subject_are_read(subject: bytes) -> None:
    content = mail("SUBJECT", patch(10)).replace(b"SUBJECT", subject)
    assert mbox.subject(content) == "[PATCH] vfio: prüfe Länge"


def encoded(transfer: str, body: bytes, kind: str = "text/plain") -> bytes:
    written = base64.encodebytes(body) if transfer == "base64" else quopri.encodestring(body)
    head = f"Content-Type: {kind}; charset=utf-8\nContent-Transfer-Encoding: {transfer}\n"
    return head.encode() + b"\n" + written


def mime(*wrapped: bytes, kind: str = "mixed") -> bytes:
    head = f'MIME-Version: 1.0\nContent-Type: multipart/{kind}; boundary="=-="\n'
    whole = mail("[PATCH] vfio: x", "BODY", headers=head)
    return whole.replace(b"BODY", b"".join(b"--=-=\n" + one + b"\n" for one in wrapped) + b"--=-=--\n")


def single(transfer: str, body: bytes) -> bytes:
    head, _, written = encoded(transfer, body).partition(b"\n\n")
    return mail("[PATCH] vfio: x", "BODY", headers=head.decode() + "\n").replace(b"BODY", written)


INLINE = b"Content-Type: text/plain\n\n" + patch(10).encode()
ATTACHED = (
    b"Content-Type: text/x-patch\nContent-Disposition: attachment; filename=x.patch\n\n" + diff(10).encode()
)


@pytest.mark.parametrize(
    "content",
    [
        single("base64", patch(10).encode()),
        single("quoted-printable", patch(10).encode()),
        mail("[PATCH] vfio: x", patch(10)).replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf\n\n" + mail("[PATCH] vfio: x", patch(10)),
        mail("[PATCH] vfio: x", patch(10), first=""),
        mime(INLINE),
        mime(b"Content-Type: text/plain\n\nWhy.\n", ATTACHED),
        mime(INLINE, b"Content-Type: text/html\n\n<pre>Why.</pre>\n", kind="alternative"),
        mime(encoded("base64", b"Why.\n"), encoded("base64", diff(10).encode(), "application/octet-stream")),
    ],
)
def test_mails_with_each_encoding_of_a_patch_are_read(tmp_path: Path, content: bytes) -> None:
    loaded = load(tmp_path, [content])
    (files,) = series.check(loaded)
    assert [file.path for file in files] == ["drivers/vfio/pci/core.c"]
    assert loaded.title == "vfio: x"


@pytest.mark.parametrize(
    "body",
    [
        "Quoted:\n" + quoted(diff(10)),
        "A line diff --git a/x b/x in a sentence.\n",
        "--- a/x\nand no other side\n",
        "    " + diff(10).replace("\n", "\n    "),
    ],
)
def test_mails_with_a_quoted_diff_are_no_patches(tmp_path: Path, body: str) -> None:
    assert "holds no diff" in refusal_of(tmp_path, [mail("[PATCH] vfio: x", body)])


def test_mails_that_are_flowed_are_blamed_for_damage(tmp_path: Path) -> None:
    headers = 'Content-Type: text/plain; charset="utf-8"; format="flowed"\n'
    loaded = load(tmp_path, [mail("[PATCH] vfio: x", patch(10), headers=headers)])
    with pytest.raises(ApplyError, match=r"hunk 1 is damaged.*The mail is format=flowed"):
        series.check(loaded)


def test_mails_with_several_patches_attached_are_refused(tmp_path: Path) -> None:
    attached = [encoded("base64", mail("[PATCH] x", patch(line), first=FORMAT_PATCH)) for line in (10, 20)]
    assert "holds 2 patches as attachments" in refusal_of(tmp_path, [mime(*attached)])
    assert len(load(tmp_path, [mime(attached[0])]).patches) == 1


# --- files


@pytest.mark.parametrize(
    "first",
    [
        "From ann at example.org  Mon Mar  2 10:00:00 2026\n",
        "From ann@example.org Mon Mar  2 10:00 2026\n",
        "From - Mon, 2 Mar 2026 10:00:00 2026\n",
        "From 1700000000000000000@xxx Mon Mar 02 10:00:00 +0000 2026\n",
        "From ann@example.org Mon Mar  2 10:00:00 CET 2026\n",
    ],
)
def test_mails_with_each_first_line_are_split(tmp_path: Path, first: str) -> None:
    mails = [mail(f"[PATCH {n}/2] vfio: part {n}", patch(10 * n), first=first) for n in (1, 2)]
    loaded = load(tmp_path, mails)
    assert titles(loaded) == parts()
    assert [len(files) for files in series.check(loaded)] == [1, 1]


def test_mails_with_headers_in_their_text_are_read(tmp_path: Path) -> None:
    quoted_headers = "From: Bob\nDate: today\nSubject: [PATCH] vfio: x\n"
    attached = f"--b\nContent-Type: message/rfc822\n\nMessage-ID: <a@b>\n{quoted_headers}\nHello.\n--b--\n"
    content = f"--b\nContent-Type: text/plain\n\n{patch(10)}\n{attached}"
    mixed = mail("[PATCH] vfio: x", content, headers=MIXED, first="")
    for one in (mail("[PATCH] vfio: x", quoted_headers + "\n" + patch(10), first=""), mixed):
        assert titles(load(tmp_path, [one])) == ["vfio: x"]


def test_mails_after_other_text_are_read(tmp_path: Path) -> None:
    loaded = load(tmp_path, [b"Archive of May\n\n", *posting()])
    assert titles(loaded) == parts()
    assert loaded.posting.notes == ("Left out: 2 lines before the first mail.",)


def test_mails_are_split_where_git_splits_them(tmp_path: Path) -> None:
    text = (
        ">From mboxrd@z Thu Jan  1 00:00:00 1970\nFrom here on it is fine.\nFrom 10:00 to 11:00 it was not.\n"
        "From ann at 10:00:00 sharp\n"
    )
    loaded = load(tmp_path, [mail("[PATCH 1/1] vfio: part 1", text + patch(10))])
    assert titles(loaded) == parts(1)
    assert len(series.check(loaded)) == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (diff(10).encode(), "is a diff and no mail"),
        (b"Some words.\n\n" + diff(10).encode(), "is a diff and no mail"),
        (b"Index: core.c\n" + b"=" * 67 + diff(10).encode()[diff(10).index("\n") :], "is a diff and no mail"),
        (b"Description: it\nAuthor: Ann\n\n" + diff(10).encode(), "is a diff and no mail"),
        (b"commit 0123\nAuthor: Ann\n\n    vfio: x\n\n" + diff(10).encode(), "is a diff and no mail"),
        (diff(10).encode() + posting()[1], "before its first mail stands a diff"),
        (b"", "cannot be tested: it is empty"),
        (b"\x7fELF\x02\x01", "does not begin with a mail"),
        ("\ufeff".encode("utf-16-le") + posting()[1].decode().encode("utf-16-le"), "text in UTF-16"),
        (b"\n<!DOCTYPE html>\n<html><body>[PATCH] x", "is a web page"),
        (mail("[GIT PULL] VFIO", "The following changes since commit\n"), "pull request"),
        (mail("Re: [PATCH] vfio: x", patch(10)), "To test the diff in 'Re: [PATCH] vfio: x'"),
        (mail("Hello"), "holds no patch"),
        (mail("[PATCH 0/2] vfio: all"), "lacks patch 1, 2 of 2"),
        (mail("[PATCH v3 2/2] vfio: x", patch(10)), "lacks patch 1 of 2. If the revision posts only some"),
        (b"".join(posting()[:2]) + mail("[PATCH 2/2] vfio: part 2"), "part 2' holds no diff"),
        (mail("[PATCH] vfio: x", "W\0hy.\n" + patch(10)), "holds a NUL byte"),
        (mail("[PATCH 3/2] vfio: x", patch(10)), "has the number 3 of only 2"),
        (
            mail("[PATCH] vfio: x", ("--b\n\n" + patch(10)) * 60, headers=MIXED),
            "'[PATCH] vfio: x' holds no diff",
        ),
        (
            mail("[PATCH] vfio: x", "Why.\n\nFrom me 12:30:00 2021\nand\n" + patch(10), name="x"),
            "its line 'From me 12:30:00 2021' begins a mail for git, and no headers follow. If it is text of "
            "the mail '[PATCH] vfio: x' <x@example.org>, write >From",
        ),
        (
            mail("[PATCH] vfio: x", patch(10), first="", name="1")
            + mail("[PATCH] vfio: y", patch(20), first="", name="2"),
            "no line From begins the mail '[PATCH] vfio: y' <2@example.org>. Save them in a folder",
        ),
        (
            b"".join(posting(count=1)).replace(b"From mboxrd@z Thu Jan  1 00:00:00 1970\n", b""),
            "several mails",
        ),
    ],
)
def test_mails_that_are_no_series_are_refused(tmp_path: Path, content: bytes, says: str) -> None:
    assert says in refusal_of(tmp_path, [content])


# --- any order, any bytes


def chosen(mails: list[bytes]) -> Chosen | str:
    try:
        return choose([Mail(one) for one in mails])
    except NotASeriesError as reason:
        return str(reason)


SEVERAL = [
    *posting(),
    *posting("[PATCH v2 {}]", 3, prefix="b", to="0"),
    mail("[PATCH v3 1/3] vfio: part 1", patch(10, "x"), name="c1", to="b1"),
    mail("[PATCH] vfio: also", patch(40), name="d", to="b2", sender=BOB),
    mail("[PATCH 1/2] mm: x", patch(50), name="e", sender=BOB),
    mail("Re: [PATCH v2 3/3] vfio: part 3", patch(30, "y"), name="f", to="b3", sender=BOB),
]


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(SEVERAL), unique=True).flatmap(
        lambda some: st.tuples(st.just(some), st.permutations(some))
    )
)
def test_mails_permuted_give_the_same_series(both: tuple[list[bytes], list[bytes]]) -> None:
    one, other = chosen(both[0]), chosen(list(both[1]))
    assert isinstance(one, str) == isinstance(other, str)
    if not isinstance(one, str):
        assert one == other


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_mails_with_any_bytes_are_read_or_refused(junk: bytes) -> None:
    assert mbox.subject(b"Subject: " + junk).isprintable()
    try:
        mails = mbox.read(b"Subject: [PATCH] x\n" + junk).mails
    except NotASeriesError:
        return
    result = chosen([one.content for one in mails])
    assert not isinstance(result, str) or result.isprintable()
