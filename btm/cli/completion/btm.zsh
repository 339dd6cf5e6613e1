#compdef btm
# Completion of btm in zsh, after compinit:   source <(btm completion zsh)
_btm() {
  local -a whole open whole_shown open_shown
  local line word
  for line in "${(@f)$(${(Q)words[1]} completion candidates "${(@Q)words[2,CURRENT]}" 2>/dev/null)}"; do
    word=${line%%$'\t'*}
    [[ -n $word ]] || continue
    if [[ $word == *[=./:] ]]; then # something must follow: no blank
      open+=("$word") open_shown+=("${line/$'\t'/  -- }")
    else
      whole+=("$word") whole_shown+=("${line/$'\t'/  -- }")
    fi
  done
  (( $#open )) && compadd -S '' -l -d open_shown -- "${open[@]}"
  (( $#whole )) && compadd -l -d whole_shown -- "${whole[@]}"
  (( $#open + $#whole ))
}
if [[ ${funcstack[1]} == _btm ]]; then _btm "$@"; else compdef _btm btm; fi
