#!/usr/bin/env bash
# All nine studies of the papers' claims, one after another, and the table of what they found.
#
#   jobs/studies.sh FOLDER [--quick] [--seed N]
#
# Each study is its own command, `raypo study NAME`; on a cluster one of them is `ray job submit -- python jobs/study.py
# NAME --out FOLDER/NAME`. People's judgements and the reference model of `dispersion` are options of that study, and the
# run of `online` is the quickstart's unless a config is named; both are given by the environment, with paths that hold
# no spaces:
#
#   DISPERSION="cobbler=COBBLER.jsonl slots=2,3,4,5 gold=GOLD.jsonl pandalm=PANDALM.jsonl model=MODEL"
#   ONLINE="config=jobs/stories.yaml policy.path=MODEL prompts.path=OPENINGS.jsonl"
set -euo pipefail
folder=${1:?the folder for what is found}
shift
names=(bandit dispersion responses weights calibration contrast prior online normalisation)
for name in "${names[@]}"; do
  options=()
  if [[ $name == dispersion ]]; then read -ra options <<<"${DISPERSION:-}"; fi
  if [[ $name == online ]]; then read -ra options <<<"${ONLINE:-}"; fi
  raypo study "$name" "$@" --out "$folder/$name" "${options[@]}"
done
raypo study --markdown "${names[@]/#/$folder/}"
