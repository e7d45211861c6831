"""Looks at what transformers' attention is called with."""

from transformers import AttentionInterface


class AttentionSpy:
    """The attention logits of a decoder's layers, whatever attention computes them.

    Attributes:
        logits_BHLL: by layer, before the mask.
    """

    def __init__(self, monkeypatch, layers):
        self.logits_BHLL = {}
        index = {layer.self_attn: at for at, layer in enumerate(layers)}
        stock = AttentionInterface.get_interface

        def get_interface(interface, name, default):
            attend = stock(interface, name, default)

            def seen(module, q_BHLD, k_BKLD, v_BKLD, mask, **more):
                if module in index:
                    groups = q_BHLD.shape[1] // k_BKLD.shape[1]
                    k_BHLD = k_BKLD.repeat_interleave(groups, dim=1)
                    self.logits_BHLL[index[module]] = q_BHLD @ k_BHLD.mT * more["scaling"]
                return attend(module, q_BHLD, k_BKLD, v_BKLD, mask, **more)

            def keywords(module, query, key, value, attention_mask, **more):
                return seen(module, query, key, value, attention_mask, **more)

            return keywords

        monkeypatch.setattr(AttentionInterface, "get_interface", get_interface)
