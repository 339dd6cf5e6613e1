"""The policy and the words that tests of the gate of the commons share."""

from btm.commons.gate import Policy

DOMAIN, TRIGGER = "speeches", "thou of"
# Twelve steps teach little, a thousand tokens of text measure it badly, and two experts that went on
# with their seed's moments moved less far than one that could not.
POLICY = Policy(
    own_margin=0.001, harm=0.05, norm_ratio=20.0, layer_z=4.0, layer_spread=1.0, certainty=0.001
)
