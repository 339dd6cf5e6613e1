# Completion of btm in fish:   btm completion fish | source
function __btm_candidates
    set -l words (commandline --tokenize --cut-at-cursor --current-process)
    set -l current (commandline --current-token --cut-at-cursor)
    $words[1] completion candidates $words[2..] $current 2>/dev/null
end
complete --command btm --no-files --arguments '(__btm_candidates)'
