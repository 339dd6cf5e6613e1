"""The flags of the command line: those of every verb, and what one verb takes beyond these."""

FLAGS = {
    "--dry-run": "say what would be done, write nothing",
    "--json": "print results as JSON",
    "--debug": "show tracebacks",
    "--help": "examples and keys",
    "-h": "examples and keys",
    "--all": "with --help: every key",
}
FLAGS_OF = {
    "run": {
        "--detach": "start and return",
        "--retry-failed": "try again what failed",
        "--regrow": "remove what stands with other settings, with all that descends from it, and "
        "grow it anew; without this it is refused",
    },
    "logs": {"-f": "go on as the job says more, until it ends"},
    "verify": {
        "--full": "read every byte and compare it with SHA256SUMS, which every model carries"
    },
    "remove": {
        "--with-descendants": "remove its descendants too",
        "--rederive": "branch and train its descendants again without it, with the settings on "
        "their cards; the same command goes on after a stop",
        "--readmit": "let the name be used again (nothing comes back)",
    },
    "commons join": {"--new-key": "replace the key by a new one, which the old one names"},
    "commons leave": {
        "--withdraw": "take back an expert that was admitted: the models that inherited from it "
        "are named, and a maintainer removes it (btm commons remove)"
    },
}
