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
    "run": ("--detach", "--retry-failed", "--regrow"),
    "logs": ("-f",),
    "verify": ("--full",),
    "remove": ("--with-descendants", "--rederive", "--readmit"),
    "commons join": ("--new-key",),
    "commons leave": ("--withdraw",),
}
