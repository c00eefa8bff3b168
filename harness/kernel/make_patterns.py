"""The lines of a failed build: a fault of the machine with its advice, an error of the tree, their context.

The build runs on an untrusted tree, so a line that blames the machine must have a form
that the text of a source file cannot take: ``#error``, ``#warning``, a static assertion,
``.error``, ``$(warning ...)`` and ``$(error ...)`` print a position first.  ``#pragma
message`` and ``$(info ...)`` print any line, so a line counts only in a step that fails
without an error at a position.  A recipe may still print what it likes and fail; then
the machine is blamed, which is no verdict, and never a passed run.
"""

from __future__ import annotations

import re

# Not behind the position of a source line, except where only the compiler itself says it.
_NO_TEXT = (
    r"(?!\S+?:\d+(?::\d+)?: (?!(?:[Ff]atal error|internal compiler error): ))"
    r"(?!\S*(?:Makefile|Kbuild)[\w.-]{0,50}:\d+: )"
)
# A part of the name of a program or file; bounded, as a pattern with two of them tries each pair.
_NAME = r"\S{0,200}"
# Behind the words of an errno: the rest of a message of make, rsync, perl or python.
_END = r"\.?'?\.?(?:  Stop\.| \(\d+\)| at \S+ line \d+\.|: '[^']*')?$"
# The shell, a script, or make, before the name of a program that it cannot run.
_SHELL = r"(?:\S+(?:: line \d+|: \d+)?: (?:exec: )?)"
_PROGRAMS = (
    r"(?:/(?:usr/)?(?:local/)?s?bin/)?(?:[\w.]+-linux-gnu-)?(?:gcc|g\+\+|cc|c\+\+|cpp|clang|as|ld|ar|nm|strip|"
    r"objcopy|objdump|readelf|size|flex|lex|bison|yacc|m4|bc|lz4c?|lzma|lzop|xz|gzip|bzip2|zstd|pigz|openssl|"
    r"pahole|ccache|rsync|perl|python[23]?|[gm]?awk|sed|[ef]?grep|tar|cpio|kmod|depmod|hostname|git|make|bash|sh|"
    r"dash|find|xargs|cmp|diff|patch|cut|tr|sort|uniq|head|tail|wc|od|hexdump|xxd|cat|cp|mv|rm|ln|mkdir|mktemp|"
    r"touch|chmod|install|stat|date|expr|env|printf|echo|tee|dirname|basename|readlink|realpath|uname|id|whoami|"
    r"nproc|pkg-config|pkgconf|setpriv|timeout|flock|sparse|mkimage|dtc|iasl|bindgen|rustc|llvm-\w+)(?:\.bfd|-?\d[\d.]*)?"
)
# Headers of the host that its programs of the build include: openssl, elfutils, ncurses, GCC's plugins, libc.
_HOST_HEADERS = (
    r"(?:(?:openssl|elfutils|ncursesw?|libfdt|bpf|capstone|glib|gtk|sys|bits|gnu|arpa|netinet)/\S+|"
    r"(?:libelf|gelf|elf|dwarf|libdw\w*|gmp|mpc|mpfr|gcc-plugin|n?curses|menu|panel|zlib|lzma|zstd|yaml|slang|"
    r"std\w+|string|strings|stdlib|unistd|errno|ctype|limits|fcntl|getopt|assert|signal|time|regex|inttypes)\.h)"
)
_MISSING_HEADER = rf"fatal error: {_HOST_HEADERS}: No such file or directory$"
# Where programs of the build lie that run on the host.
_HOST_FOLDERS = r"(?:scripts|tools|certs|usr|arch/x86/(?:tools|boot/tools|entry/vdso))"
_SIGNALS = (
    r"(?:Segmentation fault|Bus error|Illegal instruction|Aborted|Floating[ -]point exception|"
    r"Trace/breakpoint trap)"
)
_QUOTE = "['\"\u2018\u2019]?"
_MAKE = r"make(?:\[\d+\])?: "
_LD = r"(?:\S*/)?(?:[\w.]+-)?ld(?:\.\w+)?: "

INSTALL = "`python -m harness doctor` lists what is missing."
MEMORY = "Give the machine more memory or swap."
#: The advice when a program of the host lacks a header.
HEADERS_MISSING = (
    "Headers or libraries of this machine, which programs of the build need, are not installed. " + INSTALL
)
#: Lines that show a fault of the machine, each with the advice to the user.
MACHINE = tuple(
    (re.compile("|".join(patterns)), advice)
    for patterns, advice in (
        (
            (
                rf"{_NO_TEXT}(?:.*[:\]] )?'?No space left on device{_END}",
                r"fixdep: not all data was written to the output$",
            ),
            "There is no space left on the device. Free some (`python -m harness clean` empties the cache).",
        ),
        (
            (rf"{_NO_TEXT}(?:.*[:\]] )?'?Disk quota exceeded{_END}",),
            "The user's disk quota is exhausted. Free some (`python -m harness clean` empties the cache).",
        ),
        (
            (
                rf"{_NO_TEXT}(?:.*[:\]] )?'?(?:Input/output error|Remote I/O error|Read-only file system|"
                r"Stale file handle|Structure needs cleaning|Transport endpoint is not connected|"
                r"No such device or address|Device or resource busy|No locks available|Host is down|"
                rf"Connection timed out){_END}",
                rf"{_SHELL}(?:echo|printf): (?:echo: |write error: )?I/O error$",
            ),
            "The disk or its file system fails. Look at the kernel log of this machine.",
        ),
        (
            (rf"{_NO_TEXT}.*[:\]] '?Too many open files(?: in system)?{_END}",),
            "Too many files are open. Raise the limit (`ulimit -n`).",
        ),
        (
            (
                rf"{_NO_TEXT}.*[:\]] '?File too large{_END}",
                rf"(?:{_NO_TEXT}.*: |{_MAKE}\*\*\* \[.*\] )?(?:File size|CPU time) limit exceeded",
                rf"{_MAKE}\*\*\* \[.*\] Error 15[23]$",
            ),
            "A limit of this machine was exceeded. Raise it (`ulimit -a` shows all).",
        ),
        ((rf"{_NO_TEXT}.*: Text file busy{_END}",), "A program was replaced while it ran. Run it again."),
        (
            (
                rf"{_MAKE}\*\*\* (?:read|write|creating|acquiring|duping) job",
                rf"{_MAKE}\*\*\* (?:internal error|wait): |{_MAKE}write error: stdout",
            ),
            "make failed by itself, which proves nothing about the series. Run it again.",
        ),
        (
            (
                rf"{_SHELL}?(?:[Cc]annot fork|v?fork: .*)$|{_NO_TEXT}\S+: (?:fatal error: )?cannot fork\b",
                rf"{_MAKE}(?:\*\*\* )?v?fork: ",
                rf"{_NO_TEXT}.*[:\]] '?Resource temporarily unavailable{_END}",
            ),
            "No process could be started. Raise the limit (`ulimit -u`), or end other processes.",
        ),
        (
            (
                r"(?:\S+: )?(?:\*\*\* )?(?:virtual )?memory exhausted\b|LLVM ERROR: out of memory",
                r"\S+: (?:fatal error: )?out of memory\b",
                rf"{_NO_TEXT}.*[:\]] '?(?:Cannot allocate memory|(?:virtual )?memory exhausted){_END}",
                r"terminate called after throwing an instance of 'std::bad_alloc'|\s*what\(\):  std::bad",
                r"zstd: [Ee]rror\b.*: not enough memory",
                r"MemoryError$|Out of memory!$",
            ),
            f"Memory ran out. {MEMORY}",
        ),
        (
            (
                rf"{_NO_TEXT}.*Killed signal terminated program |\S+: internal compiler error: Killed ",
                r"\S+: (?:(?:fatal )?error: )?\S+ terminated with signal 9\b",
                rf"{_NAME}clang{_NAME}: error: unable to execute command: Killed",
                rf"{_MAKE}\*\*\* \[.*\] (?:Killed|Error 137)$|{_SHELL} *\d+ Killed |Killed$",
            ),
            f"The compiler was killed, most likely because memory ran out. {MEMORY}",
        ),
        (
            (
                rf"{_NO_TEXT}.*(?:Terminated|Hangup|Interrupt) signal terminated program ",
                rf"{_MAKE}\*\*\* \[.*\] (?:Terminated|Hangup|Interrupt|Quit|Error 1(?:29|30|43))$",
            ),
            "Somebody ended a program of the build. Run it again.",
        ),
        (
            (
                rf"{_NO_TEXT}\S+: internal compiler error\b",
                rf"{_NO_TEXT}.*{_SIGNALS} signal terminated program ",
                r"(?!\S*(?:Makefile|Kbuild)[\w.-]*:)(?:(?:\S+|\{standard input\}): )?"
                r"Internal error(?:, aborting| in) ",
                r"\S+: (?:(?:fatal )?error: )?\S+ terminated with signal \d",
                rf"{_NAME}clang{_NAME}: error: "
                r"(?:unable to execute command: |.* command failed due to signal )",
                rf"{_NO_TEXT}\S+: BFD .*(?:internal error|assertion fail )",
            ),
            "The compiler crashed, which does not prove the series wrong. Run it again, or update it.",
        ),
        (
            (
                rf"{_MAKE}\*\*\* \[.*\] (?:{_SIGNALS}.*|Error 13[2-69])$",
                rf"{_SHELL} *\d+ {_SIGNALS} ",
                rf"{_SHELL}?{_SIGNALS}(?: \(core dumped\))?$",
            ),
            "A program of the build crashed, which does not prove the series wrong. Run it again.",
        ),
        (
            (
                rf"{_SHELL}{_PROGRAMS}: (?:[Cc]ommand )?not found$",
                rf"{_MAKE}(?:execvp: )?{_PROGRAMS}: No such file or directory$",
                r"(?:\S*/)?(?:env|xargs|nice|timeout|setpriv): (?:failed to (?:run|execute) )?(?:command )?"
                rf"{_QUOTE}{_PROGRAMS}{_QUOTE}: No such file or directory$",
                r"\S*Kconfig\.include:\d+: (?:C compiler|linker) '.*' not found$",
            ),
            f"A program that the build needs is not installed. {INSTALL}",
        ),
        (
            (
                r"(?:\S+: )*error while loading shared libraries: ",
                rf"{_NAME}(?:gcc|cc|g\+\+|clang|collect2){_NAME}: (?:fatal )?error: "
                rf"cannot (?:execute|find) {_QUOTE}",
                rf"{_NAME}(?:gcc|cc|g\+\+|collect2){_NAME}: (?:fatal error: |error trying to exec )"
                r".*execvp: ",
            ),
            f"The compiler is not completely installed. {INSTALL}",
        ),
        (
            (
                rf"(?:\S*/)?{_HOST_FOLDERS}/\S*:\d+(?::\d+)?: {_MISSING_HEADER}",
                r"/usr/\S+:\d+(?::\d+)?: fatal error: \S+: No such file or directory$",
                rf"{_LD}cannot find (?:-l\w|\w*crt\w*\.o)",
                rf"{_NO_TEXT}.*please install (?:lib\w+|elfutils|openssl|pahole|dwarves|ncurses)",
            ),
            HEADERS_MISSING,
        ),
        (
            (
                r"ModuleNotFoundError: No module named |ImportError: |Can't locate \S+\.pm in @INC",
                r"BTF: .*: pahole .* is not available",
            ),
            f"A module or program that the build needs is not installed. {INSTALL}",
        ),
        (
            (
                r"\*\*\* [\w ]+ (?:'.*' )?is too old\.|\*\*\*   (?:Your|Minimum) .*version: ",
                r"(?:\S+: )?\*\*\* GNU Make .* is required",
                r"\S*Kconfig\.include:\d+: Sorry, this [\w ]+ is not supported\.",
                r"\S+: unknown (?:C compiler|assembler|linker)(?: invoked)?$|\*\*\* Compiler lacks ",
            ),
            "The compiler, linker or make of this machine is too old for this kernel. Install a newer one.",
        ),
        (
            (r"ccache: error: ",),
            "ccache failed, which proves nothing about the series (`python -m harness clean` empties it).",
        ),
        # A script of the tree that cannot be executed is an error of the tree: no advice.
        (
            (
                r"(?:/bin/)?(?:\S*sh|make(?:\[\d+\])?)(?:: line \d+|: \d+)?: (?:execvp: )?(?:\./)?(?!/)"
                r"(?!scripts/(?:basic|kconfig|mod)/\w+:|tools/\w+/\w+:|scripts/(?:kallsyms|sorttable):)"
                r"\S{0,200}/(?:[\w-]{1,200}|\S{1,200}\.(?:sh|pl|py|awk)): Permission denied$",
            ),
            "",
        ),
        (
            (rf"{_NO_TEXT}.*mktemp: failed to create |{_NO_TEXT}.*Cannot create temporary file in ",),
            "No temporary file could be made. Set TMPDIR to a folder that can be written.",
        ),
        (
            (rf"{_NO_TEXT}.*[:\]] '?(?:Permission denied|Operation not permitted){_END}",),
            "The build folder cannot be written, or a program of the build cannot be run. Check the owner of "
            "the cache, and that its file system is not mounted noexec.",
        ),
        (
            (
                r"(?:\S*/)?(?:\.[^/\s]+\.(?:cmd|d)|include/config/\S+):\d+: \*\*\* ",
                rf"{_NO_TEXT}.*: (?:[Ff]ile truncated|Exec format error)$",
            ),
            "A file of the build folder is damaged. Empty the cache (`python -m harness clean`).",
        ),
        (
            (rf"{_MAKE}\*\*\* No rule to make target '/(?:usr|lib|opt|etc)/",),
            "A file of this machine on which the build depends is gone. Empty the cache "
            "(`python -m harness clean`).",
        ),
    )
)
#: A missing header of the host in any file.  A program of the host is built by the rule HOST_RULE.
HOST_HEADER = re.compile(rf"\S+:\d+(?::\d+)?: {_MISSING_HEADER}")
HOST_RULE = re.compile(rf".*\[{_NAME}(?:scripts/Makefile\.host:|tools/build/|tools/{_NAME}/Makefile)")

#: Lines that show an error of the tree.
ERRORS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\S+?(?::\d+){0,3}: (?:fatal )?error: |error: ",  # gcc, objtool, scripts/headers_install.sh, kconfig
        r"(?:\S+?|\{standard input\}):\d+: Error: |\S+: Fatal error: ",  # the assembler
        rf"{_LD}(?!warning: |\S+: in function `|\S+: warning: )",
        r".*: undefined reference to `",
        r".*: multiple definition of `",
        r".*: relocation truncated to fit: ",
        r"`.*' referenced in section `.*: defined in discarded section ",
        r"ERROR: |Error: ",  # modpost and other scripts
        r"\S*Kconfig\S*:\d+:(?!warning: )",  # scripts/kconfig: syntax errors
        r"\S+?:\d+: \*\*\* ",  # make: syntax of a makefile, $(error ...)
        rf"{_MAKE}\*\*\* (?!\[|Waiting for |Deleting |Archive )",
        r".*: (?:command )?not found$|.*: Permission denied$",
        r"unifdef: |\w+Error: |syntax error at |\S+: line \d+: syntax error",
        r"FAILED: |FATAL: ",
    )
)
#: Errors that only the tree can cause: at a position of a source file or makefile.
CERTAIN = re.compile(
    r"\S+?:\d+(?::\d+)?: (?:fatal )?error: |(?:\S+?|\{standard input\}):\d+: Error: |\S+?:\d+: \*\*\* "
)
#: Lines before an error that explain it.
BEFORE = re.compile(
    r"In file included from |  +from \S+:\d|\S+: (?:In (?:member )?function |At top level:|[Ii]n function `)"
    rf"|{_LD}\S+: in function `|WARNING: modpost: .*section mismatch|"
    r"Traceback \(most recent call last\)"
)
#: Lines after an error that explain it: notes of gcc, references of lld, the symbols of kconfig.
AFTER = re.compile(r"\S+?(?::\d+){0,3}: note: |    inlined from |>>> | {8}\S")
#: Lines of a failed step that explain nothing.
NOISE = re.compile(r"compilation terminated\.$|\s*$|\$ |#|  +\d* *\|| +\d+ \|")
