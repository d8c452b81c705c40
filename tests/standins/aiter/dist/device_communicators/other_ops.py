"""The stand-in's plain all-reduce and quantising ops, on the fused op of the class that they join."""

import torch

from ... import graphs

FP8 = torch.float8_e4m3fn
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def to_fp8(rows, group):
    grouped = rows.float().view(*rows.shape[:-1], -1, group)
    scale = grouped.abs().amax(-1).clamp_min(1e-10) / 448.0
    return (grouped / scale.unsqueeze(-1)).view_as(rows).to(FP8), scale


def to_mxfp4(rows):
    blocks = rows.float().view(*rows.shape[:-1], -1, 32)
    power = torch.floor(torch.log2(blocks.abs().amax(-1).clamp_min(1e-30))) - 2
    scaled = blocks / torch.exp2(power).unsqueeze(-1)
    code = (scaled.abs().unsqueeze(-1) - E2M1).abs().argmin(-1) + 8 * (scaled < 0)
    low, high = code.view(*rows.shape[:-1], -1, 2).unbind(-1)
    return (low + 16 * high).to(torch.uint8), (power + 127).to(torch.uint8)


class OtherOps:
    def _quantised(self, kind, input, residual, weight, eps, use_1stage, quantise):
        fused = self.custom_fused_ar_rms(input, residual, weight, eps, use_1stage)
        if fused is None:
            return None
        normed, residual_out = fused
        written = [torch.empty_like(part) for part in quantise(torch.ones_like(input))]

        def run():
            graphs.launched(f"quantise_{kind}")
            for into, part in zip(written, quantise(normed), strict=True):
                into.copy_(part)

        graphs.issue(run)
        return written[0], residual_out, written[1]

    def custom_fused_ar_rms_quant(self, input, residual_inp, weight, eps, use_1stage):
        one_group = input.shape[-1]
        return self._quantised("per_token", 
            input, residual_inp, weight, eps, use_1stage, lambda rows: to_fp8(rows, one_group)
        )

    def custom_fused_ar_rms_per_group_quant(
        self, input, residual_inp, weight, eps, group_size=128, use_1stage=False, emit_bf16=False
    ):
        return self._quantised("per_group", 
            input, residual_inp, weight, eps, use_1stage, lambda rows: to_fp8(rows, group_size)
        )

    def custom_fused_ar_rms_mxfp4_quant(
        self, input, residual_inp, weight, eps, use_1stage=False, emit_bf16=False
    ):
        return self._quantised("mxfp4", input, residual_inp, weight, eps, use_1stage, to_mxfp4)
