"""The names of our model's modules in the authors' released code."""

from __future__ import annotations

from laconvnet.pipeline.model.net import NetConfig

Names = dict[str, str]

_LANGUAGE = {
    "embedding": "embedding",
    "rnn": "lstm",  # a GRU by that name
    "pool.score.0": "att_flat.mlp.fc.linear",
    "pool.score.3": "att_flat.mlp.linear",
    "pool.merge": "att_flat.linear_merge",
}
_ATTENTION = {
    "query": "mhatt.linear_q",
    "key": "mhatt.linear_k",
    "value": "mhatt.linear_v",
    "merge": "mhatt.linear_merge",
    "attention_norm": "norm1",
    "ffn.0": "ffn.mlp.fc.linear",
    "ffn.3": "ffn.mlp.linear",
    "ffn_norm": "norm2",
}
_BLOCK = {
    "generator.affinity.query": "cond_generator.mha.linear_q",
    "generator.affinity.key": "cond_generator.mha.linear_k",
    "generator.affinity.value": "cond_generator.mha.linear_v",
    "generator.merge": "cond_generator.mha.linear_merge",
    "generator.norm": "cond_generator.norm",
    "filters": "conv1.linear",
    "norm": "bn1",
    "mlp.expand": "block1.0",
    "mlp.expand_norm": "block1.1",
    "mlp.reduce": "block1.3",
    "mlp.reduce_norm": "block1.4",
}
# Necks: single convolutions, and layers of two branches (CSP).
_DOWN_CONVS = {"from_coarse": "lateral_conv0", "from_middle": "reduce_conv1"}
_DOWN_MIXES = {"mix_middle": "C3_p4", "mix_fine": "C3_p3"}
_UP_CONVS = {"to_middle": "bu_conv2", "to_coarse": "bu_conv1"}
_UP_MIXES = {"mix_middle": "C3_n3", "mix_coarse": "C3_n4"}
_BOTTLENECKS = 3
_BRANCHES = 5


def module_names(net: NetConfig, head: str) -> dict[str, tuple[str, ...]]:
    """Our modules that hold tensors -> theirs with the same tensors; several stand behind one another in ours.

    `head` is "points" or "masks". The tensors of a module have the same names in both.
    """
    names = _under("language", "lang_encoder", _LANGUAGE)
    for layer in range(net.language_layers):
        names |= _under(f"language.attention.{layer}", f"lang_encoder.sa_list.{layer}", _ATTENTION)
    for stage, depth in enumerate(net.depths):
        ours, theirs = f"visual.stages.{stage}", f"visual_encoder.blocks.{stage}"
        # Their first stage starts behind the stem; every other one begins with its change of resolution.
        names |= _conv_norm(f"{ours}.downsample.project", f"{theirs}.0.conv" if stage else "visual_encoder.stem.conv")
        for block in range(depth):
            names |= _under(f"{ours}.blocks.{block}", f"{theirs}.{block + (stage > 0)}", _BLOCK)
    names |= _neck("head.neck.down", "multi_scale_manner", _DOWN_CONVS, _DOWN_MIXES)
    names |= _neck("head.neck", "multi_scale_manner", _UP_CONVS, _UP_MIXES)
    joined: dict[str, tuple[str, ...]] = {}
    if head == "points":
        names |= _conv_norm("head.mix.0", "head.stems.0")
        names |= _conv_norm("head.mix.1", "head.reg_convs.0.0")
        names |= _conv_norm("head.mix.2", "head.reg_convs.0.1")
        joined["head.predict"] = ("head.reg_preds.0", "head.obj_preds.0")  # four channels of the box, one of objectness
    else:
        names |= _neck("head.second_neck", "detection_neck", _DOWN_CONVS, _DOWN_MIXES)
        for branch in range(_BRANCHES):
            names |= _conv_norm(f"head.pyramid.branches.{branch}", f"head.sconv.0.conv{branch}", norm="batch_norm")
        names["head.pyramid.project"] = "head.sconv.0.out_proj"
    return {ours: (theirs,) for ours, theirs in names.items()} | joined


def _under(ours: str, theirs: str, table: Names) -> Names:
    return {f"{ours}.{name}": f"{theirs}.{other}" for name, other in table.items()}


def _conv_norm(ours: str, theirs: str, norm: str = "bn") -> Names:
    return _under(ours, theirs, {"conv": "conv", "norm": norm})


def _neck(ours: str, theirs: str, convs: Names, mixes: Names) -> Names:
    names: Names = {}
    for name, other in convs.items():
        names |= _conv_norm(f"{ours}.{name}", f"{theirs}.{other}")
    for name, other in mixes.items():
        mix, csp = f"{ours}.{name}", f"{theirs}.{other}"
        for branch, conv in {"through": "conv1", "past": "conv2", "merge": "conv3"}.items():
            names |= _conv_norm(f"{mix}.{branch}", f"{csp}.{conv}")
        for bottleneck in range(_BOTTLENECKS):
            names |= _conv_norm(f"{mix}.bottlenecks.{bottleneck}.0", f"{csp}.m.{bottleneck}.conv1")
            names |= _conv_norm(f"{mix}.bottlenecks.{bottleneck}.1", f"{csp}.m.{bottleneck}.conv2")
    return names
