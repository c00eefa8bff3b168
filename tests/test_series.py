"""Loading a series from a name, a folder or an mbox file, and refusing a hostile one."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.lib.errors import ApplyError, UsageError
from harness.run import request
from harness.run.request import Request
from harness.series import diff, series
from harness.series.series import Patch, Series
from harness.verdict.verdict import Verdict

DATA = Path(__file__).parent / "data" / "series"
REFUSED = tomllib.loads((DATA / "refused.toml").read_text())
ACCEPTED = tomllib.loads((DATA / "accepted.toml").read_text())
PATCHES = Path(__file__).parent.parent / "patches"
PLAIN = (DATA / "accepted" / "plain-edit.patch").read_bytes()


def made_of(*contents: bytes, base: str = "6.19", dialect: str = "auto") -> Series:
    patches = tuple(Patch(f"{n:04}.patch", content, "subject") for n, content in enumerate(contents, 1))
    return Series("test", "a test", base, dialect, patches, {}, "a test")


def make_mail(subject: str, body: bytes = b"", sender: str = "dev@example.org") -> bytes:
    head = f"From {sender} Mon Mar  2 10:00:00 2026\nFrom: <{sender}>\nSubject: {subject}\n\n"
    return head.encode() + (body or b"Text.\n") + b"\n"


def check_printable(message: str) -> None:
    assert message.isprintable()


def body_of(patch: bytes) -> bytes:
    return patch.split(b"\n\n", 1)[1]


def write_series(folder: Path, manifest: str = "", patches: int = 1) -> Path:
    folder.mkdir(parents=True)
    if manifest:
        (folder / "series.toml").write_text(manifest)
    for number in range(1, patches + 1):
        (folder / f"{number:04}-change.patch").write_bytes(PLAIN)
    return folder


# --- the table of bad series


def test_recorded_patches_are_all_in_a_table() -> None:
    for kind, table in (("refused", REFUSED), ("accepted", ACCEPTED)):
        assert {path.stem for path in (DATA / kind).glob("*.patch")} == set(table)


@pytest.mark.parametrize("case", REFUSED)
def test_hostile_patch_is_refused_by_name(case: str) -> None:
    content = (DATA / "refused" / f"{case}.patch").read_bytes()
    bad = Patch(f"0002-{case}.patch", content, "subject")
    good = Patch("0001-good.patch", PLAIN, "subject")
    with pytest.raises(ApplyError) as refusal:
        series.check(Series("test", "a test", "6.19", "auto", (good, bad), {}, "a test"))
    assert bad.name in str(refusal.value)
    assert REFUSED[case] in str(refusal.value)
    assert str(refusal.value).isprintable()


def test_patch_with_an_endless_header_line_is_refused() -> None:
    # Each blank is one more way to split the line, and all of them at once filled the memory.
    content = PLAIN.replace(b"diff --git ", b"diff --git " + b"a " * 20_000, 1)
    with pytest.raises(ApplyError, match="its header line is longer than two paths can be"):
        series.check(made_of(content))


@pytest.mark.parametrize("case", ACCEPTED)
def test_honest_patch_is_read_as_git_reads_it(case: str) -> None:
    content = (DATA / "accepted" / f"{case}.patch").read_bytes()
    (files,) = series.check(made_of(content))
    assert [sorted(file.paths) for file in files] == ACCEPTED[case]


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_diff_reader_survives_any_bytes(junk: bytes) -> None:
    try:
        diff.read("junk.patch", junk)
    except ApplyError as refusal:
        check_printable(str(refusal))


@settings(deadline=None)
@given(st.data())
def test_diff_reader_survives_a_damaged_patch(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted((DATA / "accepted").glob("*.patch"))))
    patch = bytearray(name.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(patch) - 1))
        patch[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
        if not patch:
            return
    try:
        for file in diff.read("damaged.patch", bytes(patch)):
            assert all(".." not in path.split("/") and not path.startswith("/") for path in file.paths)
    except ApplyError as refusal:
        check_printable(str(refusal))


# --- names, folders, manifests


def test_baseline_has_no_patches_and_its_expectations() -> None:
    baseline = series.load("baseline", PATCHES)
    assert (baseline.patches, baseline.dialect, baseline.base) == ((), "base", "6.19")
    assert baseline.expected(["MAP-01"], "test_map") is Verdict.VIOLATES
    assert baseline.expected(["MAP-02"], "test_map") is Verdict.CONFORMS


def test_load_by_name_and_by_path_are_equal(tmp_path: Path) -> None:
    patches = tmp_path / "patches"
    folder = write_series(patches / "mine", 'title = "Mine"\ndialect = "feature"\n', 2)
    by_name, by_path = series.load("mine", patches), series.load(str(folder), patches)
    assert by_name == series.Series("mine", "Mine", "", "feature", by_path.patches, {}, str(folder))
    assert by_name.digest == by_path.digest
    assert [patch.name for patch in by_name.patches] == ["0001-change.patch", "0002-change.patch"]
    assert by_name.patches[0].subject == "[PATCH] vfio: change"


def test_load_of_format_patch_output_needs_no_manifest(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "out going")
    (folder / "0000-cover-make_mail.patch").write_bytes(make_mail("[PATCH 0/1] Make it good"))
    loaded = series.load(str(folder), PATCHES)
    assert (loaded.name, loaded.title, loaded.dialect) == ("out-going", "Make it good", "auto")
    assert len(loaded.patches) == 1


def test_load_takes_patches_of_another_series(tmp_path: Path) -> None:
    patches = tmp_path / "patches"
    write_series(patches / "one")
    write_series(patches / "two", 'dialect = "map"\npatches = ["../one/0001-change.patch"]\n', 0)
    assert series.load("two", patches).patches == series.load("one", patches).patches


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        ("title = 'Mine", "not a TOML file"),
        ("title = 7", "`title`"),
        ("titel = 'Mine'", "'titel', which is not known"),
        ("dialect = 'klingon'", "'klingon'"),
        ("base = ''", "`base`"),
        ("patches = '0001-change.patch'", "`patches`"),
        ("patches = ['0009-gone.patch']", "no patch file"),
        ("patches = ['/etc/passwd']", "leads out of the folder"),
        ("patches = ['../../../etc/passwd']", "leads out of the folder"),
        ("expect = 'violates'", "`expect`"),
        ("[expect]\nMAP-01 = 'perhaps'", "'perhaps' of MAP-01"),
        ("[expect]\nMAP-01 = 'not-reached'", "'not-reached' of MAP-01"),
        ("[expect]\nMAP-01 = ['conforms']", "of MAP-01"),
        ("prefix = 3", "`prefix`"),
        ("[prefix]\n0 = 'base'", "`prefix`"),
        ("[prefix.1]", "[prefix.1]; of 1 patches there are the first 0 to 0"),
        ("[prefix.00]", "[prefix.00]"),
        ("[prefix.first]", "[prefix.first]"),
        ("[prefix.0]\ntitle = 'None of it'", "'title', which is not known"),
        ("[prefix.0]\ndialect = 'klingon'", "'klingon'"),
        ("[prefix.0]\nlike = 'nobody'", "not there"),
        ("[prefix.0]\nfirst_of = 'nobody'", "not there"),
        ("[prefix.0]\nfirst_of = 'reference-ioctl'", "has `first_of` itself"),
        ("[prefix.0]\nfirst_of = 'reference-feature'\ndialect = 'map'", "nothing else"),
        ("[prefix.0]\nlike = '../tests/data/series'", "not there"),
        ("[prefix.0.expect]\nMAP-01 = 'perhaps'", "'perhaps' of MAP-01"),
    ],
)
def test_malformed_manifest_is_a_usage_error(tmp_path: Path, manifest: str, says: str) -> None:
    folder = write_series(tmp_path / "mine", manifest)
    with pytest.raises(UsageError, match=r"series\.toml|leads out|no patch file") as refusal:
        series.load(str(folder), PATCHES)
    assert says in str(refusal.value)


@pytest.mark.parametrize("word", ["conforms", "not-applicable", "violates", "kernel-died"])
def test_manifest_may_expect_each_verdict(tmp_path: Path, word: str) -> None:
    folder = write_series(tmp_path / "mine", f"[expect]\nMAP-01 = '{word}'")
    assert series.load(str(folder), PATCHES).expected(["MAP-01"], "test_map") == word


def test_load_of_an_unknown_name_suggests_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean baseline"):
        series.load("basline", PATCHES)


@pytest.mark.parametrize("argument", ["", ".", "..", "/", "../..", "no/such/\x1b[2J"])
def test_load_of_no_series_is_refused(argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as refusal:
        series.load(argument, PATCHES)
    assert "\x1b" not in str(refusal.value)


@pytest.mark.parametrize("manifest", ["", "title = 'Nothing'", "dialect = 'feature'"])
def test_load_of_a_folder_without_patches_is_refused(tmp_path: Path, manifest: str) -> None:
    folder = write_series(tmp_path / "empty", manifest, 0)
    with pytest.raises(UsageError, match="holds no patches"):
        series.load(str(folder), PATCHES)


def test_load_does_not_follow_a_link_outside(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "mine")
    (folder / "0002-link.patch").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="leads out of the folder"):
        series.load(str(folder), PATCHES)


def test_load_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "mine")
    os.mkfifo(folder / "0002-pipe.patch")
    with pytest.raises(UsageError, match="no patch file"):
        series.load(str(folder), PATCHES)


def test_load_does_not_read_a_file_too_large(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "mine")
    for path in (folder / "0002-large.patch", tmp_path / "large.mbox"):
        path.write_bytes(PLAIN)
        os.truncate(path, series.MAX_BYTES + 1)
    for argument in (folder, tmp_path / "large.mbox"):
        with pytest.raises(UsageError, match="larger than 32 MiB"):
            series.load(str(argument), PATCHES)


# --- digest and expectations


def test_digest_covers_content_order_base_and_dialect() -> None:
    one, two = made_of(b"a", b"b"), made_of(b"b", b"a")
    renamed = Series("other", "x", "6.19", "auto", one.patches, {"default": "violates"}, "elsewhere")
    assert one.digest == renamed.digest
    others = [two, made_of(b"ab"), made_of(b"a", b"b", base="6.20"), made_of(b"a", b"b", dialect="map")]
    assert len({one.digest, *(other.digest for other in others)}) == 5


@pytest.mark.parametrize(
    ("ids", "scenario", "word"),
    [
        (["MAP-09"], "test_a", "not-applicable"),
        (["MAP-01"], "test_a", "conforms"),
        (["MAP-01", "MAP-02"], "test_a", "violates"),
        (["MAP-01", "MAP-09"], "test_a", "not-applicable"),
        (["MAP-03", "MAP-02"], "test_a", "kernel-died"),
        (["MAP-02"], "test_known", "conforms"),
        ([], "test_a", "not-applicable"),
    ],
)
def test_expected_is_the_worst_unless_named(ids: list[str], scenario: str, word: str) -> None:
    expect = {
        "default": "not-applicable",
        "MAP-01": "conforms",
        "MAP-02": "violates",
        "MAP-03": "kernel-died",
        "test_known": "conforms",
    }
    tested = Series("test", "a test", "6.19", "auto", (), expect, "a test")
    assert tested.expected(ids, scenario) == word


def test_expected_of_a_group_is_the_default() -> None:
    expect = {"default": "violates", "REV": "not-applicable", "REV-03": "conforms"}
    tested = Series("test", "a test", "6.19", "auto", (), expect, "a test")
    words = [tested.expected([identity], "test_a") for identity in ("REV-01", "REV-03", "REVO-01", "MAP-01")]
    assert words == ["not-applicable", "conforms", "violates", "violates"]


# --- the first patches alone

OTHER = """\
dialect = "base"
[expect]
default = "violates"
MAP-02 = "conforms"
MAP-07 = "conforms"
"""
MINE = """\
dialect = "feature"
[expect]
LIFE-11 = "violates"
REV-05 = "not-applicable"
[prefix.4]
dialect = "map"
[prefix.4.expect]
REV = "violates"
[prefix.2]
dialect = "base"
like = "other"
[prefix.2.expect]
MAP-07 = "violates"
[prefix.1.expect]
default = "kernel-died"
"""


@pytest.fixture
def mine(tmp_path: Path) -> Series:
    write_series(tmp_path / "other", OTHER, 0)
    write_series(tmp_path / "mine", MINE, 6)
    return series.load("mine", tmp_path)


@pytest.mark.parametrize(
    ("count", "dialect", "words"),
    [
        # of LIFE-11, REV-05, MAP-02, MAP-07
        (6, "feature", ["violates", "not-applicable", "conforms", "conforms"]),
        (5, "auto", ["violates", "not-applicable", "conforms", "conforms"]),
        (4, "map", ["violates", "violates", "conforms", "conforms"]),
        (3, "map", ["violates", "violates", "conforms", "conforms"]),
        (2, "base", ["violates", "violates", "conforms", "violates"]),
        (1, "base", ["kernel-died"] * 4),
        (0, "base", ["kernel-died"] * 4),
    ],
)
def test_prefix_expects_its_table_then_longer_prefixes(
    mine: Series, count: int, dialect: str, words: list[str]
) -> None:
    prefix = mine.first(count)
    assert prefix.dialect == dialect
    assert [
        prefix.expected([identity], "test_a") for identity in ("LIFE-11", "REV-05", "MAP-02", "MAP-07")
    ] == words


@pytest.mark.parametrize("limit", [5, 4, 3, 1])
def test_prefix_first_of_takes_the_other_series(mine: Series, tmp_path: Path, limit: int) -> None:
    manifest = f"title = 'theirs'\nbase = '6.19'\ndialect = 'ioctl'\n[prefix.{limit}]\nfirst_of = 'mine'\n"
    write_series(tmp_path / "theirs", manifest, 7)
    theirs = series.load("theirs", tmp_path)
    for count in range(limit + 1):
        ours, other = mine.first(count), theirs.first(count)
        assert (other.dialect, other.expect) == (ours.dialect if count < 5 else "feature", ours.expect)
    assert theirs.first(limit + 1).expect == theirs.expect


def test_prefix_below_first_of_is_refused(tmp_path: Path) -> None:
    manifest = "[prefix.2]\nfirst_of = 'reference-feature'\n[prefix.1]\ndialect = 'map'\n"
    folder = write_series(tmp_path / "theirs", manifest, 3)
    with pytest.raises(UsageError, match="nor of fewer"):
        series.load(str(folder), PATCHES)


def test_reference_series_share_their_first_patches() -> None:
    feature, ioctl = (
        request.load(Request(series=f"reference-{name}")).series for name in ("feature", "ioctl")
    )
    assert feature.first(11).digest == ioctl.first(11).digest
    assert [ioctl.first(count).expect for count in range(12)] == [
        feature.first(count).expect for count in range(12)
    ]


def test_prefix_has_a_name_and_a_digest_of_its_own(mine: Series) -> None:
    prefixes = [mine.first(count) for count in range(7)]
    assert prefixes[6] is mine
    assert [len(prefix.patches) for prefix in prefixes] == [0, 1, 2, 3, 4, 5, 6]
    assert (prefixes[2].name, prefixes[2].title) == ("mine-2of6", "mine, the first 2 of 6 patches")
    assert len({prefix.digest for prefix in prefixes}) == 7


def test_load_series_with_patches_is_the_prefix() -> None:
    whole = request.load(Request(series="reference-feature")).series
    prefix = request.load(Request(series="reference-feature", patches=6)).series
    assert prefix == whole.first(6)
    assert prefix.patches == whole.patches[:6]


@pytest.mark.parametrize("count", [-1, 7])
def test_prefix_outside_the_series_is_refused(mine: Series, count: int) -> None:
    with pytest.raises(UsageError, match=f"6 patches, so there are no first {count}"):
        mine.first(count)


def test_prefix_without_a_manifest_conforms(tmp_path: Path) -> None:
    prefix = series.load(str(write_series(tmp_path / "mine", patches=2)), PATCHES).first(1)
    assert (prefix.dialect, prefix.expected(["MAP-01"], "test_a")) == ("auto", "conforms")


def test_unpatched_has_a_name_fit_for_a_folder() -> None:
    assert series.unpatched("../my kernel\n", "auto").name == "my-kernel"


# --- mbox files


def whole_thread() -> list[bytes]:
    patch = body_of(PLAIN)
    return [
        make_mail("[RFC PATCH v2 0/3] Map it"),
        make_mail("Re: [RFC PATCH v2 0/3] Map it", b"> From here on it is fine.\nFrom here on too.\n"),
        make_mail("[RFC PATCH v2 3/3] third", patch),
        make_mail("[RFC PATCH v2 1/3] =?utf-8?q?f=C3=BCrst?=", patch),
        make_mail("[RFC PATCH v2 2/3] second\n part", patch),
        make_mail("Out of office"),
    ]


def test_mbox_is_ordered_without_cover_and_replies(tmp_path: Path) -> None:
    path = tmp_path / "v2 thread.mbox"
    path.write_bytes(b"".join(whole_thread()))
    loaded = series.load(str(path), PATCHES)
    assert (loaded.name, loaded.title, loaded.dialect) == ("v2-thread", "Map it", "auto")
    assert [patch.subject for patch in loaded.patches] == [
        "[RFC PATCH v2 1/3] fürst",
        "[RFC PATCH v2 2/3] second part",
        "[RFC PATCH v2 3/3] third",
    ]
    assert [patch.name for patch in loaded.patches] == [
        "0001-f-rst.patch",
        "0002-second-part.patch",
        "0003-third.patch",
    ]
    assert len(series.check(loaded)) == 3


def test_mbox_of_one_mail_is_read(tmp_path: Path) -> None:
    path = tmp_path / "one.patch"
    path.write_bytes(PLAIN)
    loaded = series.load(str(path), PATCHES)
    assert [patch.content for patch in loaded.patches] == [PLAIN]


@pytest.mark.parametrize(
    ("mails", "says"),
    [
        ([], "it is empty"),
        ([b"\x7fELF\x02\x01"], "does not begin with a mail"),
        ([make_mail("Hello"), make_mail("Re: [PATCH 1/1] x")], "holds no patch"),
        ([make_mail("[PATCH 0/2] only the cover")], "lacks patch 1, 2 of 2"),
        ([make_mail("[PATCH 1/3] a"), make_mail("[PATCH 3/3] c")], "lacks patch 2 of 3"),
        (
            [make_mail("[PATCH 1/2] a"), make_mail("[PATCH 1/2] a"), make_mail("[PATCH 2/2] b")],
            "patch 1/2 twice",
        ),
        ([make_mail("[PATCH 1/2] a"), make_mail("[PATCH 2/3] b")], "not numbered as one series"),
        ([make_mail("[PATCH 1/1] a"), make_mail("[PATCH] b")], "not numbered as one series"),
        ([make_mail("[PATCH 1/9999] a")], "lacks patch 2, 3,"),
    ],
)
def test_mbox_that_is_not_one_series_is_refused(tmp_path: Path, mails: list[bytes], says: str) -> None:
    path = tmp_path / "thread.mbox"
    path.write_bytes(b"".join(mails))
    with pytest.raises(UsageError) as refusal:
        series.load(str(path), PATCHES)
    assert says in str(refusal.value)
