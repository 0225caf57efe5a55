#!/usr/bin/env bash
# All nine studies of the papers' claims, one after another, and the table of what they found.
#
#   jobs/studies.sh FOLDER [--again] [--quick] [--seed N]
#
# Each study is its own command, `raypo study NAME`; on a cluster one of them is `ray job submit -- python jobs/study.py
# NAME --out FOLDER/NAME`. What FOLDER/NAME holds as asked, of the same command, is not run once more, except with
# --again. When a study fails the next one is run; then the table has the others, and the exit code is 1.
#
# People's judgements and the reference model of `dispersion` are options of that study, and the run of `online` is the
# quickstart's unless a config is named; both are given by the environment, with paths that hold no spaces:
#
#   DISPERSION="cobbler=COBBLER.jsonl slots=2,3,4,5 gold=GOLD.jsonl pandalm=PANDALM.jsonl model=MODEL"
#   ONLINE="config=jobs/stories.yaml policy.path=MODEL prompts.path=OPENINGS.jsonl"
set -euo pipefail
folder=${1:?the folder for what is found}
shift
again=""
if [[ ${1:-} == --again ]]; then
  again=yes
  shift
fi
# as a study's result.json has it: --quick before --seed, which is 0 when it is not given
quick="" seed=0 words=("$@")
for ((at = 0; at < ${#words[@]}; at++)); do
  case ${words[at]} in
    --quick) quick=" --quick" ;;
    --seed) seed=${words[at + 1]:?a number after --seed} ;;
    --seed=*) seed=${words[at]#*=} ;;
  esac
done
names=(bandit dispersion responses weights calibration contrast prior online normalisation)
failed=() found=()
for name in "${names[@]}"; do
  options=()
  if [[ $name == dispersion ]]; then read -ra options <<<"${DISPERSION:-}"; fi
  if [[ $name == online ]]; then read -ra options <<<"${ONLINE:-}"; fi
  asked="raypo study $name$quick --seed $seed${options[*]:+ ${options[*]}}"
  if [[ -z $again && -f $folder/$name/page.html ]] && grep -qF "\"command\": \"$asked\"" "$folder/$name/result.json"; then
    echo "$name: $folder/$name holds it"
  elif ! raypo study "$name" "$@" --out "$folder/$name" "${options[@]}"; then
    failed+=("$name")
    continue
  fi
  found+=("$folder/$name")
done
if ((${#found[@]})); then raypo study --markdown "${found[@]}"; fi
if ((${#failed[@]})); then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
