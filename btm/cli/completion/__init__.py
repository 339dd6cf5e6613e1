"""Shell completion: ``btm completion bash|zsh|fish`` prints a script for that shell.

On Tab the script runs ``btm completion candidates WORD …`` and shows the lines it prints.
"""

from btm.cli.completion.shells import SHELLS, script
from btm.errors import UserError, unknown

_CANDIDATES = "candidates"  # what the scripts ask for
_USAGE = """btm completion bash|zsh|fish

  Print a script with which Tab completes verbs, the keys that a verb reads, and values.

  bash: source <(btm completion bash)              in ~/.bashrc
  zsh:  source <(btm completion zsh)               in ~/.zshrc, after compinit
  fish: btm completion fish | source               in ~/.config/fish/config.fish
"""


def command(words: list[str]) -> int:
    """Carry out ``btm completion`` with the words after it; return the exit code.

    A `UserError` names the shells if `words` are none of them.
    """
    if words and words[0] == _CANDIDATES:
        from btm.cli.completion.candidates import candidates

        for each in candidates(words[1:]):
            print(f"{each.word}\t{each.meaning}")
        return 0
    if words and words[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0
    if len(words) != 1:
        raise UserError(f"btm completion takes one shell: {', '.join(SHELLS)}")
    if words[0] not in SHELLS:
        raise unknown("shell", words[0], SHELLS, "btm completion")
    print(script(words[0]), end="")
    return 0
