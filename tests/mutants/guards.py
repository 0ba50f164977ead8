"""Which tests guard a file: the shortest list that should notice any change of it, fastest first."""

from __future__ import annotations

_DATA, _TRAINING, _RUNS = "tests/pipeline/data", "tests/pipeline/training", "tests/pipeline/runs"
_CHECKPOINT = f"{_TRAINING}/test_checkpoint.py"
_CHOICE = f"{_TRAINING}/test_resume_choice.py"
_SESSION = f"{_TRAINING}/test_session.py"
_ELASTIC = f"{_TRAINING}/test_elastic_resume.py"
_FILES = [f"tests/package/test_{name}.py" for name in ("files", "reading")]
_TASKS = [f"tests/pipeline/tasks/test_{name}.py" for name in ("answers", "rec", "vqa", "res", "points", "entailment")]
_SETS = [f"tests/shards/test_{name}.py" for name in ("checksums", "mapped_tables", "manifest", "verify")]
_BUILD = [f"tests/shards/test_{name}.py" for name in ("build", "build_resumed", "damage")]
_TABLES = [f"tests/shards/test_{name}.py" for name in ("sources_table", "faults_table")]

GUARDS: dict[str, list[str]] = {
    "laconvnet/files.py": [*_FILES, f"{_RUNS}/test_owner.py", _CHECKPOINT],
    "launch/supervision/council.py": ["tests/launch/supervision/test_council.py"],
    "launch/supervision/ends.py": ["tests/launch/supervision/test_council.py"],
    "launch/supervision/goodput.py": ["tests/launch/supervision/test_goodput.py"],
    "launch/supervision/link.py": ["tests/launch/supervision/test_link.py"],
    "pipeline/data/counts.py": [f"{_DATA}/test_counts.py"],
    "pipeline/data/epoch.py": [f"{_DATA}/test_epoch.py"],
    "pipeline/data/plan.py": [f"{_DATA}/test_{name}.py" for name in ("known_order", "plan", "window")],
    "pipeline/data/reader.py": [f"{_DATA}/test_reader.py", f"{_DATA}/test_masks.py"],
    "pipeline/model/draws.py": ["tests/pipeline/model/test_draws.py"],
    "pipeline/report/ledgers.py": ["tests/pipeline/test_report_data.py", "tests/launch/test_status.py"],
    "pipeline/runs/checkpoints.py": [f"{_RUNS}/test_checkpoints.py", _CHECKPOINT],
    "pipeline/runs/fence.py": [f"{_RUNS}/test_fence.py"],
    "pipeline/runs/memory.py": [f"{_RUNS}/test_memory.py", f"{_TRAINING}/test_keeper.py"],
    "pipeline/runs/owner.py": [f"{_RUNS}/test_owner.py"],
    "pipeline/runs/publish.py": [f"{_RUNS}/test_memory.py", _CHECKPOINT],
    "pipeline/runs/resumable.py": ["tests/pipeline/test_config.py", _CHOICE],
    "pipeline/tasks/__init__.py": _TASKS,
    "pipeline/tasks/base.py": _TASKS,
    "pipeline/tasks/grec.py": [_TASKS[0], _TASKS[3]],
    "pipeline/tasks/rec.py": [_TASKS[0], _TASKS[1], _TASKS[4]],
    "pipeline/tasks/res.py": [_TASKS[0], _TASKS[3]],
    "pipeline/tasks/vqa.py": [_TASKS[0], _TASKS[2], _TASKS[5]],
    "pipeline/training/checkpoint.py": [_CHECKPOINT, _CHOICE],
    "pipeline/training/ema.py": [f"{_TRAINING}/test_ema.py", _SESSION],
    "pipeline/training/engine.py": [f"{_TRAINING}/test_{name}.py" for name in ("engine_config", "engine", "tracking")],
    "pipeline/training/guard.py": [f"{_TRAINING}/test_guard.py"],
    "pipeline/training/keeper.py": [f"{_TRAINING}/test_keeper.py"],
    "pipeline/training/resume.py": [f"{_TRAINING}/test_keeper.py", _CHOICE, f"{_TRAINING}/test_resume.py"],
    "pipeline/training/schedule.py": [f"{_TRAINING}/test_schedule.py"],
    "pipeline/training/session.py": [_SESSION, f"{_TRAINING}/test_guard.py"],
    "pipeline/training/inherit.py": [f"{_TRAINING}/test_init_from.py"],
    "pipeline/training/start.py": [f"{_TRAINING}/test_init_from.py", "tests/pipeline/model/test_plugin.py", _CHOICE],
    "pipeline/training/state.py": [f"{_TRAINING}/test_optimizer.py", _SESSION, _ELASTIC],
    "shards/build/builder.py": ["tests/shards/test_progress.py", *_BUILD],
    "shards/format/facts.py": ["tests/pipeline/stores/test_memory.py"],
    "shards/format/remote.py": ["tests/pipeline/stores/test_web.py", "tests/pipeline/stores/test_memory.py"],
    "shards/format/mirror.py": ["tests/pipeline/stores/test_web.py", "tests/pipeline/stores/test_memory.py"],
    "shards/format/shard.py": ["tests/pipeline/stores/test_s3.py"],
    "shards/sets/copy.py": ["tests/pipeline/stores/test_s3.py", "tests/pipeline/stores/test_memory.py"],
    "shards/build/construction.py": [*_BUILD, "tests/shards/test_heal.py"],
    "shards/build/heal.py": ["tests/shards/test_heal.py"],
    "shards/build/inputs.py": ["tests/shards/test_heal.py"],
    "shards/build/join.py": _BUILD,
    "shards/build/brake.py": ["tests/shards/test_ledger.py"],
    "shards/build/plan.py": ["tests/shards/test_keys.py", *_BUILD[:1]],
    "shards/build/check.py": ["tests/shards/test_check.py"],
    "shards/build/examine.py": ["tests/shards/test_check.py", "tests/shards/test_ledger.py", *_BUILD[:1]],
    "shards/build/sizes.py": ["tests/shards/test_sizes.py"],
    "shards/build/writer.py": ["tests/shards/test_writer.py", *_BUILD],
    "shards/format/checksums.py": _SETS,
    "shards/format/counts.py": ["tests/shards/test_counts.py"],
    "shards/format/ledger.py": ["tests/shards/test_ledger.py"],
    "shards/format/manifest.py": [_SETS[2], _SETS[3], *_BUILD, "tests/shards/test_pretrain.py"],
    "shards/format/tables.py": _SETS,
    "shards/sources/coco.py": ["tests/shards/test_sources_coco.py"],
    "shards/sources/simrec.py": ["tests/shards/test_sources_simrec.py"],
    "shards/sources/table/cells.py": _TABLES,
    "shards/sources/table/columns.py": ["tests/shards/test_table_columns.py", *_TABLES],
    "shards/sources/table/formats.py": ["tests/shards/test_table_formats.py", *_TABLES],
    "shards/sources/table/ids.py": ["tests/shards/test_table_sorting.py", *_TABLES],
    "shards/sources/table/rows.py": _TABLES,
    "shards/sources/table/sorting.py": ["tests/shards/test_table_sorting.py", *_TABLES],
    "shards/sources/table/source.py": _TABLES,
    "shards/pages/cards.py": ["tests/shards/test_preview.py"],
    "shards/pages/choice.py": ["tests/shards/test_preview.py"],
    "shards/pages/distributions.py": ["tests/shards/test_distributions.py"],
    "shards/pages/outline.py": ["tests/shards/test_preview.py"],
    "shards/pages/preview.py": ["tests/shards/test_preview.py"],
    "shards/sources/published.py": ["tests/shards/test_published.py"],
}
