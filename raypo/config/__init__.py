"""What a run is: one frozen tree. Every choice of a run is a field here, with its meaning, unit and default.

    tree      the sections and their fields; section, objective, rewards and judge belong to it
    refusals  combinations that mean nothing, each with its reason
    addresses secrets and hosts that do not belong in a config
    load      one YAML file plus dotted overrides -> a tree, or every fault in one message

Imports neither torch nor ray, so that a plan can be read anywhere. Defaults are the vetted setting; a field without a
default must be given. The tree knows no algorithm: `objective` carries the name of a preset and its hyperparameters,
which `raypo.objective.presets` checks.
"""

from __future__ import annotations

from raypo.config.judge import JudgeConfig
from raypo.config.load import (
    PLACES,
    anchored_rewards,
    apply_overrides,
    as_yaml,
    build,
    key_of,
    load,
    read_yaml,
    set_values,
)
from raypo.config.objective import HYPERPARAMETER_DEFAULTS, ObjectiveConfig
from raypo.config.refusals import refuse_lengths, refuse_online
from raypo.config.rewards import FunctionReward, HttpReward, ModelReward, RewardSource
from raypo.config.section import Section
from raypo.config.tree import (
    AnnotationConfig,
    ClusterConfig,
    DispersionConfig,
    EngineConfig,
    EvaluationConfig,
    ImportanceConfig,
    OnlineConfig,
    PolicyConfig,
    PromptsConfig,
    RunConfig,
    SamplingConfig,
    ScoringConfig,
    TrackingConfig,
    TrainingConfig,
)

__all__ = [
    "HYPERPARAMETER_DEFAULTS",
    "PLACES",
    "AnnotationConfig",
    "ClusterConfig",
    "DispersionConfig",
    "EngineConfig",
    "EvaluationConfig",
    "FunctionReward",
    "HttpReward",
    "ImportanceConfig",
    "JudgeConfig",
    "ModelReward",
    "ObjectiveConfig",
    "OnlineConfig",
    "PolicyConfig",
    "PromptsConfig",
    "RewardSource",
    "RunConfig",
    "SamplingConfig",
    "ScoringConfig",
    "Section",
    "TrackingConfig",
    "TrainingConfig",
    "anchored_rewards",
    "apply_overrides",
    "as_yaml",
    "build",
    "key_of",
    "load",
    "read_yaml",
    "refuse_lengths",
    "refuse_online",
    "set_values",
]
