"""Names and shapes of the tensors of the released LaConvNet-S and -B, for REC and RES."""

from __future__ import annotations

WORDS = 11
Shapes = dict[str, tuple[int, ...]]


def conv_norm(name: str, inputs: int, outputs: int, kernel: int = 1, norm: str = "bn") -> Shapes:
    return {f"{name}.conv.weight": (outputs, inputs, kernel, kernel)} | batch_norm(f"{name}.{norm}", outputs)


def batch_norm(name: str, channels: int) -> Shapes:
    values = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{value}": (channels,) for value in values} | {f"{name}.num_batches_tracked": ()}


def linear(name: str, inputs: int, outputs: int, *kernel: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, *kernel), f"{name}.bias": (outputs,)}


def language() -> Shapes:
    shapes: Shapes = {"embedding.weight": (WORDS, 300)}
    shapes |= {"lstm.weight_ih_l0": (1536, 300), "lstm.weight_hh_l0": (1536, 512)}
    shapes |= {"lstm.bias_ih_l0": (1536,), "lstm.bias_hh_l0": (1536,)}
    for part in "vkq":
        shapes |= linear(f"sa_list.0.mhatt.linear_{part}", 512, 512)
    shapes |= linear("sa_list.0.mhatt.linear_merge", 512, 512)
    shapes |= linear("sa_list.0.ffn.mlp.fc.linear", 512, 2048) | linear("sa_list.0.ffn.mlp.linear", 2048, 512)
    for norm in ("norm1", "norm2"):
        shapes |= {f"sa_list.0.{norm}.weight": (512,), f"sa_list.0.{norm}.bias": (512,)}
    shapes |= linear("att_flat.mlp.fc.linear", 512, 256) | linear("att_flat.mlp.linear", 256, 1)
    shapes |= linear("att_flat.linear_merge", 512, 512)
    return {f"lang_encoder.{name}": shape for name, shape in shapes.items()}


def visual(first: tuple[int, ...], depths: tuple[int, ...]) -> Shapes:
    shapes = conv_norm("stem.conv", 12, 16, 3)
    dims, groups, packing = (16, 64, 128, 256, 512), (4, 4, 8, 8, 16), (8, 4, 2, 1, 1)
    conditions = (64, 128, 128, 256, 512)
    for stage, (d, g, s, c) in enumerate(zip(dims, groups, packing, conditions, strict=True)):
        if stage:
            shapes |= conv_norm(f"blocks.{stage}.0.conv", 4 * dims[stage - 1], d)
        for block in range(depths[stage]):
            k = 7 if stage else first[block]
            name = f"blocks.{stage}.{block + (stage > 0)}"
            attention = f"{name}.cond_generator.mha"
            shapes |= linear(f"{attention}.linear_v", 512, c) | linear(f"{attention}.linear_k", 512, c)
            shapes |= linear(f"{attention}.linear_q", d * s * s, c, 1, 1)
            shapes |= linear(f"{attention}.linear_merge", c, c * s * s, 1, 1)
            shapes |= batch_norm(f"{name}.cond_generator.norm", c)
            shapes |= linear(f"{name}.conv1.linear", c, k * k * g, 1, 1) | batch_norm(f"{name}.bn1", d)
            shapes |= {f"{name}.block1.0.weight": (4 * d, d, 1, 1)} | batch_norm(f"{name}.block1.1", 4 * d)
            shapes |= {f"{name}.block1.3.weight": (d, 4 * d, 1, 1)} | batch_norm(f"{name}.block1.4", d)
    return {f"visual_encoder.{name}": shape for name, shape in shapes.items()}


def csp(name: str, inputs: int, outputs: int) -> Shapes:
    half = outputs // 2
    shapes = conv_norm(f"{name}.conv1", inputs, half) | conv_norm(f"{name}.conv2", inputs, half)
    shapes |= conv_norm(f"{name}.conv3", outputs, outputs)
    for place in range(3):
        shapes |= conv_norm(f"{name}.m.{place}.conv1", half, half) | conv_norm(f"{name}.m.{place}.conv2", half, half, 3)
    return shapes


def top_down(name: str) -> Shapes:
    shapes = conv_norm(f"{name}.lateral_conv0", 512, 256) | csp(f"{name}.C3_p4", 512, 256)
    return shapes | conv_norm(f"{name}.reduce_conv1", 256, 128) | csp(f"{name}.C3_p3", 256, 128)


def neck() -> Shapes:
    shapes = top_down("multi_scale_manner")
    shapes |= conv_norm("multi_scale_manner.bu_conv2", 128, 128, 3) | csp("multi_scale_manner.C3_n3", 256, 256)
    return shapes | conv_norm("multi_scale_manner.bu_conv1", 256, 256, 3) | csp("multi_scale_manner.C3_n4", 512, 512)


def rec_head() -> Shapes:
    shapes = conv_norm("head.stems.0", 512, 256)
    shapes |= conv_norm("head.reg_convs.0.0", 256, 256, 3) | conv_norm("head.reg_convs.0.1", 256, 256, 3)
    return shapes | linear("head.reg_preds.0", 256, 4, 1, 1) | linear("head.obj_preds.0", 256, 1, 1, 1)


def res_head() -> Shapes:
    shapes = top_down("detection_neck")
    for branch, kernel in enumerate((1, 3, 3, 3, 1)):
        shapes |= conv_norm(f"head.sconv.0.conv{branch}", 128, 128, kernel, "batch_norm")
    return shapes | linear("head.sconv.0.out_proj", 640, 1, 1, 1)


def small() -> Shapes:
    return language() | visual((3, 5), (2, 1, 2, 4, 1)) | neck()
