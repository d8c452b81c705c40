"""SGLang's server flags."""


class ServerArgs:
    enable_aiter_allreduce_fusion: bool = False
    enable_deterministic_inference: bool = False

    def _handle_deterministic_inference(self):
        if not self.enable_deterministic_inference:
            return
        self.sampling_backend = "pytorch"
        if self.enable_aiter_allreduce_fusion:
            self.enable_aiter_allreduce_fusion = False
