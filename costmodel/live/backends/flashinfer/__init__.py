"""FlashInfer's fused all-reduce + RMSNorm as a back end."""
