# Completion of btm in bash:   source <(btm completion bash)
_btm() {
  local line=${COMP_LINE:0:COMP_POINT} words word rest kept
  read -ra words <<<"$line"
  [[ $line == *[[:space:]] ]] && words+=("")
  local current=${words[-1]}
  # Bash replaces what stands after the last of its word breaks, = and : among them.
  kept=${current%"${current##*[=:]}"}
  [[ $COMP_WORDBREAKS == *=* ]] || kept=
  COMPREPLY=()
  while IFS=$'\t' read -r word rest; do
    [[ $word == "$current"* ]] && COMPREPLY+=("${word#"$kept"}")
  done < <("$1" completion candidates "${words[@]:1}" 2>/dev/null)
  [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=./:] ]] && compopt -o nospace 2>/dev/null
  return 0
}
complete -F _btm btm
