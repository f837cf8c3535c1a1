"""Which fields of two recipes differ."""

from vit_jax.run_folder import differences


def test_a_field_that_is_new_or_of_the_data_is_no_difference():
    old = {"lr": 1.0, "model": {"num_classes": 10, "width": 8}, "gone": 1}
    new = {
        "lr": 2.0,
        "model": {"num_classes": 1000, "width": 8},
        "later": None,
        "more": (),
        "other": 3,
    }
    found = ["lr: 1.0 -> 2.0", "gone: 1 -> absent", "other: absent -> 3"]
    assert differences(old, new) == found
