"""What a compiled program moves between devices, and when that is more than a layer."""

from benchmarks._hlo import beyond_a_layer, collectives, largest

# ViT-H/14's step compiled for TPU v5p, shortened: kernels gathered, and gathered by an all-reduce
# that lists one twice, pieces that are passed on, gradients; then forms of other compilers.
TPU = r"""
  %a.1 = bf16[1280,5120]{1,0:T(8,128)(2,1)} all-gather(%fusion.18), channel_id=3, dimensions={0}
  %a.2 = bf16[1280,5120]{1,0:T(8,128)(2,1)S(1)} all-gather(%fusion.19), channel_id=3, dimensions={0}
  %all-reduce.183 = (bf16[1280,3840]{1,0:T(8,128)(2,1)}, bf16[1280,1280]{1,0:T(8,128)(2,1)}, \
bf16[1280,5120]{1,0:T(8,128)(2,1)}, bf16[5120,1280]{1,0:T(8,128)(2,1)}, /*index=4*/bf16[1280,3840]\
{1,0:T(8,128)(2,1)}) all-reduce(%copy-done.7, %copy-done.19, %dynamic-update-slice.181, \
%copy-done.12, /*index=4*/%copy-done.7), channel_id=5, replica_groups=mesh['axis_0'=64] {'axis_0'}
  %p.4 = (bf16[5120,96]{0,1:T(8,128)(2,1)}, bf16[5120,96]{0,1:T(8,128)(2,1)}, u32[]{:S(2)}, \
u32[]{:S(2)}) collective-permute-start(%fusion.1272), channel_id=1, source_target_pairs={{0,2}}
  %d.4 = bf16[5120,96]{0,1:T(8,128)(2,1)} collective-permute-done(%p.4)
  %all-reduce.184 = bf16[1536,5120]{1,0:T(8,128)(2,1)} all-reduce(%pad.82), channel_id=19
""".replace("\\\n", "")
OTHERS = """
  %s = (f32[8,4]{1,0}, f32[2]{0}, f32[64,4]{1,0}, f32[16]{0}) all-gather-start(%x, %y), channel_id=4
  %d = f32[64,4]{1,0} all-gather-done(%s)
  %r = (f32[6]{0}, f32[8]{0}) all-reduce-start(%x, %y), channel_id=5, to_apply=%add
  ROOT %t = (f32[1,5]{1,0}, f32[1,5]{1,0}) all-to-all(%x, %y), channel_id=6
  %q = f32[7]{0} reduce-scatter(f32[56]{0:T(256)} %x), channel_id=7
  %u = f32[9]{0} ragged-all-to-all(%x), channel_id=8
  %v = f32[3]{0} collective-broadcast(%x)
"""
H14 = 19_677_440  # parameters of a layer


def test_collectives_are_read_from_a_compiled_program():
    assert collectives(TPU) == {"all-gather": 1, "all-reduce": 2, "collective-permute": 1}
    assert largest(TPU) == {
        "all-gather": 1280 * 5120,
        "all-reduce": 1280 * (3840 + 1280 + 5120 + 5120),
        "collective-permute": 5120 * 96,
    }
    made = {"all-gather": 272, "all-reduce": 14, "reduce-scatter": 7, "all-to-all": 10}
    made |= {"ragged-all-to-all": 9, "collective-broadcast": 3}
    assert largest(OTHERS) == made and collectives(OTHERS) == dict.fromkeys(made, 1)


def test_more_than_a_layer_at_once_is_found_in_any_form():
    fsdp = (4, 16, 1)

    def said(text: str, mesh: tuple[int, int, int] = fsdp) -> list[str]:
        return [line.split(" makes ")[0] for line in beyond_a_layer(largest(text), H14, mesh)]

    assert said(TPU) == []
    assert said(TPU.replace("%", "")) == [
        "no collective was found: has XLA's text another form now?"
    ]
    two_layers = TPU.replace("%copy-done.7)", "%copy-done.8)")  # now of another layer's kernel
    assert said(two_layers) == ["all-reduce"]
    assert said(two_layers, (64, 1, 1)) == said(two_layers, (1, 16, 4)) == []  # what they reduce
    stack = TPU.replace("[1280,5120]{1,0:T(8,128)(2,1)S(1)}", "[32,1280,5120]{2,1,0:T(8,128)}")
    assert said(stack) == said(stack, (64, 1, 1)) == said(stack, (1, 16, 4)) == ["all-gather"]
    assert said(TPU.replace("5120,96", "4,5120,96")) == ["collective-permute"]
    (message,) = beyond_a_layer(largest(two_layers), H14, fsdp)
    assert message == "all-reduce makes 1 x 24,576,000 numbers, a layer has 19,677,440"
