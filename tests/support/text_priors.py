"""Priors that are told words, tiny and with random weights, in exactly the layout of the real ones."""

import json

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tiny import randomise
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def vae(channels=4, **config):
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return randomise(AutoencoderKL(block_out_channels=(4, 4), latent_channels=channels, norm_num_groups=2,
                                   sample_size=8, **blocks, **config), 1)  # fmt: skip


def clip_tokenizer(folder):
    """Letters alone, each also as the end of a word."""
    folder.mkdir()
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = [*letters, *(f"{each}</w>" for each in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def clip(kind=CLIPTextModel, seed=2):
    config = CLIPTextConfig(vocab_size=74, hidden_size=8, intermediate_size=8, num_hidden_layers=2, projection_dim=8,
                            num_attention_heads=2, bos_token_id=72, eos_token_id=73, pad_token_id=73)  # fmt: skip
    return randomise(kind(config), seed)


def t5(folder):
    import sentencepiece

    folder.mkdir()
    text = folder / "text.txt"
    text.write_text("a photo of a zero one two three four five six seven eight nine\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "spiece"), vocab_size=24, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        minloglevel=2,
    )  # fmt: skip
    tokenizer = T5Tokenizer.from_pretrained(folder, extra_ids=0)
    config = T5Config(vocab_size=64, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2)
    return tokenizer, randomise(T5EncoderModel(config), 3)


def unet(**config):
    kinds = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return randomise(UNet2DConditionModel(sample_size=4, block_out_channels=(4, 8), layers_per_block=1,
                     norm_num_groups=2, attention_head_dim=2, **kinds, **config), 4)  # fmt: skip


def stable_diffusion(folder, prediction="epsilon"):
    made = PNDMScheduler(**BETAS, steps_offset=1, skip_prk_steps=True)
    scheduler = (
        made
        if prediction == "epsilon"
        else DDIMScheduler(**BETAS, clip_sample=False, prediction_type=prediction, steps_offset=1)
    )
    pipeline = StableDiffusionPipeline(vae(), clip(), clip_tokenizer(folder.with_name("words")),
                                       unet(cross_attention_dim=8), scheduler, None, None,
                                       requires_safety_checker=False)  # fmt: skip
    pipeline.save_pretrained(folder)


def stable_diffusion_2(folder):
    stable_diffusion(folder, "v_prediction")


def stable_diffusion_xl(folder):
    words = clip_tokenizer(folder.with_name("words"))
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 32,  # 8 of the pooled prompt, 4 of each of 6 sizes
    }
    StableDiffusionXLPipeline(
        vae(force_upcast=True), clip(), clip(CLIPTextModelWithProjection, 5), words, words,
        unet(cross_attention_dim=16, **added), DDIMScheduler(**BETAS, clip_sample=False, steps_offset=1),
        add_watermarker=False,
    ).save_pretrained(folder)  # fmt: skip


def pixart(folder):
    tokenizer, encoder = t5(folder.with_name("words"))
    network = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, num_layers=1, sample_size=4, in_channels=4, out_channels=8,
        cross_attention_dim=8, caption_channels=8, use_additional_conditions=False,
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(beta_start=1e-4, beta_end=0.02)
    PixArtAlphaPipeline(tokenizer, encoder, vae(), randomise(network, 6), scheduler).save_pretrained(folder)


def stable_diffusion_3(folder):
    words = clip_tokenizer(folder.with_name("words"))
    encoders = [clip(CLIPTextModelWithProjection, seed) for seed in (2, 5)]
    network = SD3Transformer2DModel(
        sample_size=4, patch_size=1, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=4,
        num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=8, pooled_projection_dim=16,
        pos_embed_max_size=8,
    )  # fmt: skip
    StableDiffusion3Pipeline(
        randomise(network, 7), FlowMatchEulerDiscreteScheduler(shift=3.0), vae(shift_factor=0.06, use_quant_conv=False,
        use_post_quant_conv=False), encoders[0], words, encoders[1], words, None, None,
    ).save_pretrained(folder)  # fmt: skip


KINDS = {
    each.__name__: each
    for each in (stable_diffusion, stable_diffusion_2, stable_diffusion_xl, pixart, stable_diffusion_3)
}
