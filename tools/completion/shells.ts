import type { CompletedOption, CompletedVerb } from './verbs.ts';

/** A script that a shell reads to complete `viommu`. */
type Script = (verbs: readonly CompletedVerb[]) => string;

const words = (list: readonly string[]): string => list.join(' ');
const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;
const names = (list: readonly { readonly name: string }[]): string => words(list.map((e) => e.name));

/** Each option whose value can be completed, once for all verbs that have it. */
function withValues(verb: CompletedVerb): CompletedOption[] {
  return verb.options.filter((o) => o.value !== null);
}

function bashVerb(verb: CompletedVerb): string {
  const cases = withValues(verb).map((o) => {
    const found =
      o.value === 'file'
        ? 'compgen -f -- "$cur"'
        : o.value === 'other'
          ? ':'
          : `compgen -W ${quoted(words(o.value!))} -- "$cur"`;
    return `        ${o.name}) mapfile -t COMPREPLY < <(${found}); return ;;`;
  });
  const rest =
    verb.words.length === 0
      ? 'compgen -f -- "$cur"'
      : `{ compgen -W ${quoted(words(verb.words))} -- "$cur"; compgen -f -- "$cur"; }`;
  return [
    `    ${verb.name})`,
    '      case "$prev" in',
    ...cases,
    '      esac',
    `      if [[ "$cur" == -* ]]; then mapfile -t COMPREPLY < <(compgen -W ${quoted(names(verb.options))} -- "$cur")`,
    `      else mapfile -t COMPREPLY < <(${rest}); fi ;;`,
  ].join('\n');
}

const bash: Script = (verbs) => `# viommu completion bash: put "source <(viommu completion bash)" into ~/.bashrc
_viommu() {
  local cur="\${COMP_WORDS[COMP_CWORD]}" prev="\${COMP_WORDS[COMP_CWORD-1]}" verb='' word
  COMPREPLY=()
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$word" in
      ${verbs.map((v) => v.name).join('|')}) verb="$word"; break ;;
    esac
  done
  case "$verb" in
    '') mapfile -t COMPREPLY < <(compgen -W ${quoted(`${names(verbs)} help --json --quiet --color --help --version`)} -- "$cur") ;;
${verbs.map(bashVerb).join('\n')}
  esac
}
complete -o filenames -F _viommu viommu
`;

/** Square brackets and colons mean something to _arguments. */
const zshText = (text: string): string => text.replaceAll(/[[\]:\\]/g, (c) => `\\${c}`);

function zshOption(o: CompletedOption): string {
  if (o.value === null) return quoted(`${o.name}[${zshText(o.text)}]`);
  const action = o.value === 'file' ? '_files' : o.value === 'other' ? ' ' : `(${words(o.value)})`;
  return quoted(`*${o.name}[${zshText(o.text)}]:${o.name.slice(2)}:${action}`);
}

function zshVerb(verb: CompletedVerb): string {
  const first = verb.words.length === 0 ? [] : [quoted(`1:what:(${words(verb.words)})`)];
  return [
    `    ${verb.name})`,
    `      _arguments ${[...verb.options.map(zshOption), ...first, quoted('*:file:_files')].join(' \\\n        ')} ;;`,
  ].join('\n');
}

const zsh: Script = (verbs) => `#compdef viommu
# viommu completion zsh: write it to a file _viommu in a folder of $fpath
_viommu() {
  local -a verbs
  verbs=(
${verbs.map((v) => `    ${quoted(`${v.name}:${v.summary.replaceAll(':', '\\:')}`)}`).join('\n')}
  )
  if (( CURRENT == 2 )); then
    _describe command verbs
    return
  fi
  local verb="$words[2]"
  shift words
  (( CURRENT-- ))
  case "$verb" in
${verbs.map(zshVerb).join('\n')}
  esac
}
if [[ "$funcstack[1]" == _viommu ]]; then _viommu "$@"; else compdef _viommu viommu; fi
`;

function fishOption(verb: CompletedVerb, o: CompletedOption): string {
  const value =
    o.value === null
      ? ''
      : o.value === 'file'
        ? ' -r -F'
        : o.value === 'other'
          ? ' -x'
          : ` -x -a ${quoted(words(o.value))}`;
  return `complete -c viommu -n '__fish_seen_subcommand_from ${verb.name}' -l ${o.name.slice(2)}${value} -d ${quoted(o.text)}`;
}

const fish: Script = (verbs) => {
  const none = `not __fish_seen_subcommand_from ${names(verbs)}`;
  const lines = ['# viommu completion fish: write it to ~/.config/fish/completions/viommu.fish'];
  for (const v of verbs) {
    lines.push(`complete -c viommu -f -n ${quoted(none)} -a ${v.name} -d ${quoted(v.summary)}`);
    for (const w of v.words) lines.push(`complete -c viommu -n '__fish_seen_subcommand_from ${v.name}' -a ${w}`);
    lines.push(...v.options.map((o) => fishOption(v, o)));
  }
  return `${lines.join('\n')}\n`;
};

/** Scripts by the name of the shell. */
export const SHELLS: Readonly<Record<string, Script>> = { bash, zsh, fish };
