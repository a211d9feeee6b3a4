/* shardherd completion: scripts that ask `shardherd __complete` for candidates. */
#include <stdio.h>
#include <string.h>

#include "cli/command.h"

static const char bash_script[] =
    "# completion of shardherd for bash; load it with: source <(shardherd completion bash)\n"
    "_shardherd() {\n"
    "    local line candidate current=${COMP_WORDS[COMP_CWORD]}\n"
    "    COMPREPLY=()\n"
    "    [[ $current == = ]] && current=\n"
    "    while IFS= read -r line; do\n"
    "        case $line in\n"
    "            :files) compopt -o default 2>/dev/null; return ;;\n"
    "            :directories) compopt -o dirnames 2>/dev/null; return ;;\n"
    "        esac\n"
    "        candidate=${line%%$'\\t'*}\n"
    "        [[ $candidate == \"$current\"* ]] && COMPREPLY+=(\"$candidate\")\n"
    "    done < <(\"${COMP_WORDS[0]}\" __complete \"${COMP_WORDS[@]:1:COMP_CWORD}\" 2>/dev/null)\n"
    "}\n"
    "complete -F _shardherd shardherd\n";

static const char zsh_script[] =
    "#compdef shardherd\n"
    "# completion of shardherd for zsh; put it as _shardherd into a directory of $fpath,\n"
    "# or load it with: source <(shardherd completion zsh)\n"
    "_shardherd() {\n"
    "    local line value\n"
    "    local -a candidates\n"
    "    while IFS= read -r line; do\n"
    "        case $line in\n"
    "            :files) _files; return ;;\n"
    "            :directories) _files -/; return ;;\n"
    "        esac\n"
    "        value=${line%%$'\\t'*}\n"
    "        value=${value//:/\\\\:}\n"
    "        if [[ $line == *$'\\t'* ]]; then\n"
    "            candidates+=(\"$value:${line#*$'\\t'}\")\n"
    "        else\n"
    "            candidates+=(\"$value\")\n"
    "        fi\n"
    "    done < <(\"${words[1]}\" __complete \"${(@)words[2,CURRENT]}\" 2>/dev/null)\n"
    "    _describe -t candidates shardherd candidates\n"
    "}\n"
    "if [[ $funcstack[1] == _shardherd ]]; then\n"
    "    _shardherd \"$@\"\n"
    "else\n"
    "    compdef _shardherd shardherd\n"
    "fi\n";

static const char fish_script[] =
    "# completion of shardherd for fish; put it into ~/.config/fish/completions/shardherd.fish\n"
    "function __shardherd_complete\n"
    "    set -l words (commandline -opc) (commandline -ct)\n"
    "    set -l found ($words[1] __complete $words[2..-1] 2>/dev/null)\n"
    "    switch \"$found[1]\"\n"
    "        case :files\n"
    "            __fish_complete_path (commandline -ct)\n"
    "        case :directories\n"
    "            __fish_complete_directories (commandline -ct)\n"
    "        case '*'\n"
    "            printf '%s\\n' $found\n"
    "    end\n"
    "end\n"
    "complete -c shardherd -f -a '(__shardherd_complete)'\n";

int command_completion(const struct args *args)
{
    static const struct {
        const char *shell, *script;
    } scripts[] = {{"bash", bash_script}, {"zsh", zsh_script}, {"fish", fish_script}};
    for (size_t i = 0; i < sizeof scripts / sizeof scripts[0]; i++)
        if (strcmp(scripts[i].shell, args->words[0]) == 0) {
            fputs(scripts[i].script, stdout);
            return CLI_OK;
        }
    return session_fail(NULL, CLI_USAGE, "no completion for \"%s\"; there is: bash, zsh, fish",
                        args->words[0]);
}
