import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.data import facts, kernel_names, mangled
from costmodel.data.kernel_calls import calls
from costmodel.data.kernel_names import read

BF16, FP16 = "__hip_bfloat16", "__half"
FUSION = "(flashinfer::trtllm_allreduce_fusion::AllReduceFusionPattern)"
FLASH = "void flashinfer::trtllm_allreduce_fusion::allreduce_fusion_kernel_"
TRT_FUSION = "(tensorrt_llm::kernels::ar_fusion::AllReduceFusionPattern)"
MNNVL = "void flashinfer::trtllm_mnnvl_allreduce::"
QUICK = "void quickreduce::allreduce_prototype_twoshot<quickreduce::AllReduceTwoshot<__half, quickreduce::"

#: name -> family, op, algorithm, dtype, ranks; one for each line of the fact file at the least.
NAMES = {
    "void aiter::cross_device_reduce_1stage<__bf16, 8, false>(aiter::RankData*, aiter::RankData*)": ("aiter", "all_reduce", "1stage", "bf16", 8),
    "void aiter::cross_device_reduce_1stage_naive<_Float16, 6, true>(aiter::RankData*)": ("aiter", "all_reduce", "1stage", "fp16", 6),
    f"void aiter::cross_device_reduce_2stage<{BF16}, 4>(aiter::RankData*)": ("aiter", "all_reduce", "2stage", "bf16", 4),
    "void aiter::cross_device_reduce_2stage_write_mode<std::bfloat16_t, 8, false>(aiter::RankData*)": ("aiter", "all_reduce", "2stage", "bf16", 8),
    f"void aiter::allreduce_fusion_kernel_1stage<{BF16}, {BF16}, 8>(aiter::RankData*)": ("aiter", "fused_ar_rmsnorm", "1stage", "bf16", 8),
    "void aiter::allreduce_fusion_kernel_1stage<float, float, 2, 512>(aiter::RankData*)": ("aiter", "fused_ar_rmsnorm", "1stage", "fp32", 2),
    "void aiter::allreduce_fusion_kernel_1stage<__bf16, _BitInt(8), 4, false>(aiter::RankData*)": ("aiter", "fused_ar_rmsnorm_quant_fp8", "1stage", "bf16", 4),
    "void aiter::allreduce_fusion_kernel_1stage<__bf16, signed _BitInt(8), 4, false>(aiter::RankData*)": ("aiter", "fused_ar_rmsnorm_quant_fp8", "1stage", "bf16", 4),
    "allreduce_fusion_kernel_1stage": ("aiter", "", "1stage", "", None),
    "void aiter::allreduce_fusion_kernel_1stage_per_group<__bf16, _BitInt(8), 8, false, true>(aiter::RankData*)": ("aiter", "fused_ar_rmsnorm_quant_fp8", "1stage", "bf16", 8),
    "void aiter::allreduce_fusion_kernel_1stage_mxfp4<__bf16, 8>(aiter::RankData*)": ("aiter", "fused_ar_rmsnorm_quant_mxfp4", "1stage", "bf16", 8),
    "void aiter::allreduce_fusion_kernel_2stage<__bf16, _BitInt(8), 8, false>(aiter::RankData*)": ("aiter", "fused_ar_rmsnorm_quant_fp8", "2stage", "bf16", 8),
    "void aiter::allreduce_fusion_kernel_2stage_per_group<__bf16, _BitInt(8), 2, false>(aiter::RankData*)": ("aiter", "fused_ar_rmsnorm_quant_fp8", "2stage", "bf16", 2),
    "void aiter::allreduce_fusion_kernel_2stage_mxfp4<__bf16, 4>(aiter::RankData*)": ("aiter", "fused_ar_rmsnorm_quant_mxfp4", "2stage", "bf16", 4),
    "void aiter::qknorm_allreduce_fusion_kernel_2stage<__bf16, 4, 64, false>(aiter::RankData*)": ("aiter", "other", "2stage", "bf16", 4),
    f"void aiter::reduce_scatter_cross_device_store<{BF16}, 8>(aiter::RankData*, aiter::RankSignals)": ("aiter", "", "2stage", "bf16", 8),
    "void aiter::local_device_load_rmsnorm_512n<__hip_bfloat16, 1>(aiter::RankSignals, int)": ("aiter", "fused_ar_rmsnorm", "2stage", "bf16", None),
    "void aiter::local_device_load_rmsnorm<__bf16, 512, 2, false>(aiter::RankSignals)": ("aiter", "fused_ar_rmsnorm", "2stage", "bf16", None),
    "void aiter::local_device_load_rmsnorm_naive<__bf16, 256, 1, true>(aiter::RankSignals) [clone .kd]": ("aiter", "fused_ar_rmsnorm", "2stage", "bf16", None),
    "void aiter::local_device_load_rmsnorm_quant_naive<__bf16, _BitInt(8), false>(aiter::RankSignals)": ("aiter", "fused_ar_rmsnorm_quant_fp8", "2stage", "bf16", None),
    "void aiter::local_device_load_rmsnorm_quant_per_group_naive<__bf16, _BitInt(8), true>(aiter::RankSignals)": ("aiter", "fused_ar_rmsnorm_quant_fp8", "2stage", "bf16", None),
    "void aiter::allreduce_mhc_post_large_m_kernel<__bf16, 8, 4, true>(aiter::RankData*)": ("aiter", "fused_ar_mhc", "1stage", "bf16", 8),
    "void aiter::mhc_post_kernel_x2vgpr<__bf16, 4, 4, 256, true>(__bf16*)": ("aiter", "fused_ar_mhc", "2stage", "bf16", None),
    "void aiter::allReduceQuantFp8<__half, 128, 8, 8, false>(aiter::RankData*)": ("aiter", "other", "", "fp16", 8),
    "void aiter::ar_ll_gfx1250<__bf16, 4>(__bf16* const*)": ("aiter-ll", "all_reduce", "1stage", "bf16", 4),
    "void aiter::ar_ll128_vec_unroll2<__bf16, 2, 512>(__bf16 const*)": ("aiter-ll128", "all_reduce", "1stage", "bf16", 2),
    "void aiter::ar_gfx1250_naive_unroll4<__bf16, 4, false>(aiter::RankData*)": ("aiter", "all_reduce", "1stage", "bf16", 4),
    "void aiter::ar_cas_2shot_gfx1250_scratch<__bf16, 4, 512, 2>(aiter::RankData*)": ("aiter", "all_reduce", "2stage", "bf16", 4),
    "void aiter::allgather_lastdim<__bf16, 8>(aiter::RankData*)": ("aiter", "other", "", "bf16", 8),
    "void aiter::reduce_scatter_split_lastdim<__bf16, 8>(aiter::RankData*)": ("aiter", "other", "", "bf16", 8),
    "void vllm::cross_device_reduce_1stage<c10::BFloat16, 4>(vllm::RankData*)": ("vllm", "all_reduce", "1stage", "bf16", 4),
    "void vllm::cross_device_reduce_2stage<__nv_bfloat16, 8>(vllm::RankData*)": ("vllm", "all_reduce", "2stage", "bf16", 8),
    f"void sglang::cross_device_reduce_1stage<{FP16}, 2>(sglang::RankData*)": ("sglang", "all_reduce", "1stage", "fp16", 2),
    f"void sglang::cross_device_reduce_2stage<{FP16}, 8>(sglang::RankData*)": ("sglang", "all_reduce", "2stage", "fp16", 8),
    "cross_device_reduce_1stage<__hip_bfloat16, 8>": ("unknown", "all_reduce", "1stage", "bf16", 8),
    "cross_device_reduce_2stage": ("unknown", "all_reduce", "2stage", "", None),
    "void sglang::all_reduce_1shot_push_kernel<__nv_bfloat16, 8u, true>(x)": ("sglang", "all_reduce", "1stage", "bf16", 8),
    "void sglang::all_reduce_2shot_push_kernel<__nv_bfloat16, 4u, true>(x)": ("sglang", "all_reduce", "2stage", "bf16", 4),
    "void sglang::all_reduce_1shot_pull_kernel<sglang::PullImpl<uint4, 8u, false>, __nv_bfloat16, 8u, true>(x)": ("sglang", "all_reduce", "1stage", "bf16", 8),
    "void sglang::all_reduce_2shot_pull_kernel<sglang::PullImpl<uint4, 8u, false>, half, 8u, true>(x)": ("sglang", "all_reduce", "2stage", "fp16", 8),
    "void (anonymous namespace)::all_reduce_kernel<(anonymous namespace)::AllReducePushImpl<__nv_bfloat16, 8u, true>, 8u, 1>(x)": ("sglang", "all_reduce", "1stage", "bf16", 8),
    "void (anonymous namespace)::all_reduce_kernel<(anonymous namespace)::AllReducePullImpl<__nv_bfloat16, 8u, ((anonymous namespace)::PullMode)1, true>, 8u, 1>(x)": ("sglang", "all_reduce", "1stage", "bf16", 8),
    "void (anonymous namespace)::all_reduce_kernel<(anonymous namespace)::AllReducePullImpl<__nv_bfloat16, 8u, ((anonymous namespace)::PullMode)1, true>, 8u, 2>(x)": ("sglang", "all_reduce", "2stage", "bf16", 8),
    "sglang::all_reduce_mhc_hip::all_reduce_mhc_post_kernel(aiter::RankData*)": ("sglang", "fused_ar_mhc", "1stage", "", None),
    "void sglang::allreduce_1shotLL_1node<__hip_bfloat16>(mscclpp::MemoryChannelDeviceHandle*)": ("mscclpp", "all_reduce", "1stage", "bf16", None),
    f"{QUICK}CodecFP<__half, 8>, true>, __half>(__half const*)": ("quickreduce", "all_reduce", "2stage", "fp16", 8),
    f"{QUICK}CodecQ4<__half, 8>, true>, __half>(__half const*)": ("quickreduce", "other", "2stage", "fp16", 8),
    "void aiter::allreduce_rmsnorm_prototype_twoshot<aiter::AllReduceTwoshotRMSNorm<__half, __half, aiter::CodecFP<__half, 4>, true>, __half>(x)": ("quickreduce", "other", "2stage", "", None),
    "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)": ("nccl", "all_reduce", "", "bf16", None),
    "ncclKernel_AllReduce_RING_LL_Sum_half(ncclDevComm*, unsigned long, ncclWork*)": ("nccl", "all_reduce", "", "fp16", None),
    "ncclSymkDevKernel_AllReduce_RSxLD_AGxST_sum_bf16": ("nccl", "all_reduce", "", "bf16", None),
    "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)": ("nccl", "other", "", "", None),
    "ncclSymkDevKernel_AllGather_STMC": ("nccl", "other", "", "", None),
    "ncclDevKernel_Generic_4(ncclDevKernelArgsStorage<4096ul>)": ("rccl", "", "", "", None),
    "ncclDevKernel_Generic_1<allreduce, BFloat16, 8>": ("rccl", "all_reduce", "", "bf16", 8),
    "ncclDevKernel_Generic_1<_allgather_base, BFloat16, 8>": ("rccl", "other", "", "", None),
    "void rcclGenericKernel<1, false>(ncclDevKernelArgsStorage<4096ul>)": ("rccl", "", "", "", None),
    "mscclKernel_Sum_hip_bfloat16_Simple_false(ncclDevComm*, mscclAlgo*, mscclWork*)": ("rccl", "", "", "bf16", None),
    "void meta::comms::ddaAllReduceFlatIpc<__hip_bfloat16, 8, false>(x)": ("rccl", "all_reduce", "1stage", "bf16", 8),
    "void meta::comms::ddaAllReduceFlatLL128<__hip_bfloat16, 8>(x)": ("rccl", "all_reduce", "1stage", "bf16", None),
    "void meta::comms::ddaAllReduceTreeIpc<__hip_bfloat16, 8, false>(x)": ("rccl", "all_reduce", "2stage", "bf16", None),
    "void (anonymous namespace)::one_shot_all_reduce_kernel<c10::BFloat16, 16, 8>(c10::BFloat16**)": ("torch_symm_mem", "all_reduce", "1stage", "bf16", 8),
    "_ZN63_GLOBAL__N__dcf5bb2d_25_CUDASymmetricMemoryOps_cu_b0e3bd7a_1234L26one_shot_all_reduce_kernelIN3c108BFloat16ELi16ELi2EEEvPPT_S4_S4_mmPPjmm": ("torch_symm_mem", "all_reduce", "1stage", "bf16", 2),
    "void (anonymous namespace)::two_shot_all_reduce_kernel_inplace<float, 16, -1>(float**)": ("torch_symm_mem", "all_reduce", "2stage", "fp32", None),
    "void (anonymous namespace)::multimem_one_shot_all_reduce_kernel<c10::BFloat16, 16>(c10::BFloat16*)": ("torch_symm_mem", "all_reduce", "1stage", "bf16", None),
    "void (anonymous namespace)::multimem_all_reduce_kernel<c10::BFloat16, 16>(c10::BFloat16*)": ("torch_symm_mem", "all_reduce", "2stage", "bf16", None),
    f"{FLASH}oneshot_lamport<{FUSION}0, __nv_bfloat16, 8, false, false>(x)": ("flashinfer", "all_reduce", "1stage", "bf16", 8),
    f"{FLASH}oneshot_lamport<{FUSION}1, __nv_bfloat16, 8, false, false>(x)": ("flashinfer", "fused_ar_rmsnorm", "1stage", "bf16", 8),
    f"{FLASH}oneshot_lamport<{FUSION}4, __half, 2, true>(x)": ("flashinfer", "fused_ar_rmsnorm_quant_fp8", "1stage", "fp16", 2),
    f"{FLASH}oneshot_lamport<{FUSION}3, __half, 2, true>(x)": ("flashinfer", "", "1stage", "", None),
    f"{FLASH}twoshot_sync<{FUSION}0, __nv_bfloat16, 8, false>(x)": ("flashinfer", "all_reduce", "2stage", "bf16", 8),
    f"{FLASH}twoshot_sync<{FUSION}1, __nv_bfloat16, 8, false>(x)": ("flashinfer", "fused_ar_rmsnorm", "2stage", "bf16", 8),
    f"{FLASH}twoshot_sync<{FUSION}2, __nv_bfloat16, 8, false>(x)": ("flashinfer", "fused_ar_rmsnorm_quant_fp8", "2stage", "bf16", 8),
    f"{FLASH}twoshot_sync": ("flashinfer", "", "2stage", "", None),
    f"{MNNVL}oneshotAllreduceFusionKernel<(unsigned char)8, __nv_bfloat16, false, float4>(x)": ("flashinfer", "all_reduce", "1stage", "bf16", 8),
    f"{MNNVL}oneshotAllreduceFusionKernel<(unsigned char)8, __nv_bfloat16, true, (flashinfer::QuantType)0, float4>(x)": ("flashinfer", "fused_ar_rmsnorm", "1stage", "bf16", 8),
    f"{MNNVL}oneshotAllreduceFusionKernel<(unsigned char)8, __nv_bfloat16, true, (flashinfer::QuantType)1, float4>(x)": ("flashinfer", "", "1stage", "", None),
    f"{MNNVL}twoshotAllreduceKernel<(unsigned char)4, __nv_bfloat16, true, float4>(x)": ("flashinfer", "all_reduce", "2stage", "bf16", 4),
    f"void tensorrt_llm::kernels::ar_fusion::allreduce_fusion_kernel_oneshot_lamport<{TRT_FUSION}1, __nv_bfloat16, 4, true>(x)": ("trtllm", "fused_ar_rmsnorm", "1stage", "bf16", 4),
    f"void tensorrt_llm::_v1::kernels::ar_fusion::allreduce_fusion_kernel_twoshot_sync<{TRT_FUSION}1, __nv_bfloat16, 4, true>(x)": ("trtllm", "fused_ar_rmsnorm", "2stage", "bf16", 4),
    "void tensorrt_llm::kernels::oneShotAllReduceKernel<__nv_bfloat16, 8, true, false>(x)": ("trtllm", "all_reduce", "1stage", "bf16", 8),
    "void tensorrt_llm::kernels::twoShotAllReduceKernel<half, 8, true, false>(x)": ("trtllm", "all_reduce", "2stage", "fp16", 8),
    "allreduce_1stage_arr_0": ("flydsl", "all_reduce", "1stage", "", None),
    "allreduce_2stage_arr": ("flydsl", "all_reduce", "2stage", "", None),
    "ep_dispatch_intranode_0": ("aiter", "other", "", "", None),
    "ep_combine_intranode_0.kd": ("aiter", "other", "", "", None),
    "ep_dispatch_0": ("aiter", "other", "", "", None),
    "ep_combine_fused_sync_0": ("aiter", "other", "", "", None),
    "ep_combine_fused_1": ("aiter", "other", "", "", None),
    "fused_one_stage.kd": ("costmodel", "fused_ar_rmsnorm", "1stage", "", None),
    "reduce_scatter_to_peers": ("costmodel", "", "2stage", "", None),
    "add_rms_norm": ("costmodel", "fused_ar_rmsnorm", "2stage", "", None),
    "all_reduce_one_stage": ("costmodel", "all_reduce", "1stage", "", None),
    "all_reduce_two_stage": ("costmodel", "all_reduce", "2stage", "", None),
    "void aiter::add_rmsnorm_quant_kernel<__bf16, __bf16, 256, 8, true, false, false, 1>(x)": ("aiter", "", "", "", None),
    "void aiter::rmsnorm_opus_kernel<aiter::Traits<__bf16>, true>(x)": ("aiter", "", "", "", None),
    "_ZN7ck_tile6kentryILi1ENS_12Rmsnorm2dFwdINS_27Rmsnorm2dFwdPipelineOnePassIfEEEEJEEEvv": ("aiter", "", "", "", None),
    "void vllm::fused_add_rms_norm_kernel<c10::BFloat16, 8>(x)": ("vllm", "", "", "", None),
    "void flashinfer::norm::FusedAddRMSNormKernel<8u, __nv_bfloat16>(x)": ("flashinfer", "", "", "", None),
    "triton_red_fused__to_copy_add_copy_copy__mean_mul_pow_rsqrt_0": ("inductor", "", "", "", None),
}  # fmt: skip

#: Names that are near one of the table, or cut where it matters.
UNKNOWN = (
    "void aiter::allreduce_fusion_kernel_1st...",
    "void aiter::allreduce_fusion_kernel_1stage...",  # may have gone on as ..._per_group
    "void aiter::allreduce_fusion_kernel_1stages<__bf16, __bf16, 8>(x)",
    "void aiter::allreduce_fusion_kernel_3stage<__bf16, __bf16, 8>(x)",
    "void mine::allreduce_fusion_kernel_1stage<__bf16, __bf16, 8>(x)",
    "void aiter::cross_device_reduce_1stage_push<__bf16, 8>(x)",
    "one_shot_all_reduce_kernel",  # several libraries have one
    "void vllm::sm70_cross_device_reduce_1stage_push<4>(x)",
    "ncclDevKernel_AllReduce_Max_bf16_RING_LL(x)",
    "Cijk_Alik_Bljk_BBS_BH_Bias_HA_S_SAV",
    "Memcpy DtoD (Device -> Device)",
    "ep_dispatch_internode_0",
    "my_ep_dispatch_intranode_0",
    "megamoe_stage1_compact_t64x128x256_w4_gm1_0",  # a GEMM, with the dispatch in it
    "flydsl_mxmoe_g1_a4w4_64x256x256_f16in",  # a GEMM alone
    "chunk_gdn_fwd_h_flydsl_vk_0",
    "_ZN5aiter30allreduce_fusion_kern...",
    "", " ", "<", "<<", "()", "...", "_Z", "_ZN", "void ",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_says_family_op_algorithm_dtype_and_ranks(name):
    seen = read(name)
    assert (seen.family, seen.op, seen.algorithm, seen.dtype, seen.world_size) == NAMES[name]
    assert seen.known
    assert seen.source


def test_every_line_of_the_table_is_met_by_a_name_and_has_a_source():
    entries = kernel_names._entries()
    met = {
        next(i for i, e in enumerate(entries) if e.pattern.fullmatch(read(name).text))
        for name in NAMES
    }
    rows = facts.rows("kernel_names.csv")
    assert [rows[i]["pattern"] for i in range(len(entries)) if i not in met] == []
    assert all(row["source"] and row["part"] for row in rows)


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_name_of_no_line_is_unknown_never_the_nearest(name):
    seen = read(name)
    assert not seen.known
    assert (seen.family, seen.op, seen.world_size) == ("unknown", "", None)
    assert seen.cut == name.endswith("...")


@pytest.mark.parametrize(
    ("mangled_name", "demangled"),
    [
        ("_ZN5aiter26cross_device_reduce_1stageIDF16bLi8ELb0EEEvPNS_8RankDataES2_NS_11RankSignalsEPNS_6SignalEPT_ii.kd",
         "void aiter::cross_device_reduce_1stage<__bf16, 8, false>(aiter::RankData*)"),
        ("_ZN5aiter30allreduce_fusion_kernel_1stageIDF16bDB8_Li4ELb0EEEvPNS_8RankDataE",
         "void aiter::allreduce_fusion_kernel_1stage<__bf16, _BitInt(8), 4, false>(aiter::RankData*)"),
        ("_ZN5aiter30allreduce_fusion_kernel_1stageI14__hip_bfloat16S1_Li4ELi512EEEvPNS_8RankDataE",
         "void aiter::allreduce_fusion_kernel_1stage<__hip_bfloat16, __hip_bfloat16, 4, 512>(x)"),
        ("_ZN4vllm26cross_device_reduce_2stageI6__halfLi4EEEvPNS_8RankDataE",
         "void vllm::cross_device_reduce_2stage<__half, 4>(vllm::RankData*)"),
        ("_ZN12_GLOBAL__N_126one_shot_all_reduce_kernelIN3c108BFloat16ELi16ELi8EEEvPPT_",
         "void (anonymous namespace)::one_shot_all_reduce_kernel<c10::BFloat16, 16, 8>(x)"),
        ("_ZN11quickreduce27allreduce_prototype_twoshotINS_16AllReduceTwoshotI6__halfNS_7CodecQ4IS2_Li8EEELb1EEES2_EEvPKT0_",
         f"{QUICK}CodecQ4<__half, 8>, true>, __half>(__half const*)"),
        ("_ZN10flashinfer23trtllm_allreduce_fusion39allreduce_fusion_kernel_oneshot_lamportILNS0_22AllReduceFusionPatternE1E13__nv_bfloat16Li8ELb0ELb0EEEvNS0_21AllReduceFusionParamsIT0_EE",
         f"{FLASH}oneshot_lamport<{FUSION}1, __nv_bfloat16, 8, false, false>(x)"),
    ],
)  # fmt: skip
def test_a_mangled_name_reads_as_the_demangled_one(mangled_name, demangled):
    assert read(mangled_name) == read(demangled)
    assert read(mangled_name).known


def test_flags_are_read_as_words_or_as_numbers():
    """Some demanglers print a bool as ``(bool)1``: the norm of FlashInfer's kernel is such a flag."""
    kernel = "void flashinfer::trtllm_mnnvl_allreduce::oneshotAllreduceFusionKernel"
    for flag, word, op in ((1, "true", "fused_ar_rmsnorm"), (0, "false", "all_reduce")):
        said = [
            read(f"{kernel}<(unsigned char)8, __nv_bfloat16, {text}>(x)").op
            for text in (f"(bool){flag}", word)
        ]
        assert said == [op, op]


def test_arguments_that_are_cut_off_are_not_guessed():
    seen = read("void aiter::reduce_scatter_cross_device_store<__hip_b...")
    assert (seen.part, seen.algorithm, seen.dtype, seen.world_size) == ("reduce_scatter", "2stage", "", None)  # fmt: skip
    assert seen.cut
    # Quantised or not was in the part that is lost.
    assert read("void aiter::allreduce_fusion_kernel_1stage<__hip_bfloat16...").op == ""
    assert read("_ZN5aiter26cross_device_reduce_1stageIDF16b...").op == "all_reduce"


@given(st.text(max_size=300))
def test_reading_never_fails(text):
    for name in (text, f"_ZN5aiter{text}", f"void aiter::allreduce_fusion_kernel_1stage<{text}"):
        assert read(name).text is not None


def test_mutated_names_never_fail():
    random.seed(7)
    names = [
        *NAMES,
        "_ZN5aiter30allreduce_fusion_kernel_1stageI14__hip_bfloat16S1_Li4ELb0EEEvPNS_8RankDataE",
    ]
    alphabet = "_<>(),:ZNIEJLS0123456789abT. \u2026\u0661"
    for _ in range(3000):
        name = list(random.choice(names))
        for _ in range(random.randint(1, 6)):
            at = random.randrange(len(name))
            name[at : at + random.randint(0, 3)] = random.choices(alphabet, k=random.randint(0, 4))
            name = name or ["_"]
        read("".join(name))


def test_deep_and_long_names_are_refused_without_harm():
    assert not read("_Z1fI" + "P" * 100_000 + "iE").known
    assert not read("_Z1f" + "I1a" * 5000).known
    assert not read("a<" * 50_000).known
    with pytest.raises(mangled.NotRead):
        mangled.read("_Z1fI" + "N1aI" * 60 + "i")


def parts(*names):
    return [(c.op, c.algorithm, c.kernels, c.whole) for c in calls([read(n) for n in names])]


SCATTER = "void aiter::reduce_scatter_cross_device_store<__bf16, 8>(x)"
NORM = "void aiter::local_device_load_rmsnorm<__bf16, 512, 2, false>(x)"
FP8 = "void aiter::local_device_load_rmsnorm_quant_naive<__bf16, _BitInt(8), false>(x)"
MHC = "void aiter::mhc_post_kernel<__bf16, 4, 4, 256, true>(x)"
ONE = "void aiter::allreduce_fusion_kernel_1stage<__bf16, __bf16, 8, false>(x)"


def test_two_launches_are_one_call_whose_op_the_second_says():
    assert parts(SCATTER, NORM) == [("fused_ar_rmsnorm", "2stage", (0, 1), True)]
    assert parts(SCATTER, FP8) == [("fused_ar_rmsnorm_quant_fp8", "2stage", (0, 1), True)]
    assert parts(SCATTER, MHC) == [("fused_ar_mhc", "2stage", (0, 1), True)]
    assert parts("gemm", SCATTER, "gemm", NORM, ONE) == [
        ("fused_ar_rmsnorm", "2stage", (1, 3), True),
        ("fused_ar_rmsnorm", "1stage", (4,), True),
    ]


def test_a_half_without_its_other_is_told_apart():
    assert parts(SCATTER, ONE, NORM, MHC) == [
        ("reduce_scatter_phase", "2stage", (0,), False),
        ("fused_ar_rmsnorm", "1stage", (1,), True),
        ("local_rmsnorm_phase", "2stage", (2,), False),
    ]
    assert parts(NORM, SCATTER) == [
        ("local_rmsnorm_phase", "2stage", (0,), False),
        ("reduce_scatter_phase", "2stage", (1,), False),
    ]
    assert parts("gemm", MHC) == []


def test_types_are_read_without_their_qualifiers_and_to_forty_levels():
    def nested(levels):
        return "_Z1f" + "I1g" * (levels - 1) + "If" + "E" * levels + "vv"

    assert mangled.read("_Z1fIPKfEvv") == ("f", ["float"])
    assert mangled.read(f"_Z1fI{'P' * 39}fEvv") == ("f", ["float"])
    assert mangled.read(nested(40))[1][0].count("<") == 39
    for name in (f"_Z1fI{'P' * 40}fEvv", nested(41)):
        with pytest.raises(mangled.NotRead):
            mangled.read(name)
