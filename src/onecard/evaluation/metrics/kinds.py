"""What a metric's name says: its unit, its direction, and the values that an item can have.

Names end in what they measure (`base_general_wer`, `search_s`), also behind a label ("hybrid:
ndcg@10").
"""

import math
import re
from dataclasses import dataclass

Bounds = tuple[float, float]
"""The least and the largest value that an item can have."""


@dataclass(frozen=True)
class MetricKind:
    unit: str
    lower_is_better: bool
    bounds: Bounds
    """Of one item."""
    margin: float = 0.0
    """The smallest difference that matters, in the unit; 0 where every one does."""


SHARE = MetricKind("share", False, (0.0, 1.0))
KINDS = (
    (r"per_s", MetricKind("1/s", False, (0.0, math.inf))),
    (r"_s", MetricKind("seconds", True, (0.0, math.inf))),
    (r"(wer|cer|der|name_error)", MetricKind("error rate", True, (0.0, 1.0))),
    (r"(^|[_ ])ece", MetricKind("calibration error", True, (0.0, 1.0))),
    (r"(^|[_ ])brier", MetricKind("squared error", True, (0.0, 2.0))),
    (r"(^|[_ ])nll", MetricKind("nats", True, (0.0, math.inf))),
    (r"mse", MetricKind("squared error", True, (0.0, math.inf))),
    (r"(^|[_ ])(drift|leak|nearest)", MetricKind("cosine", True, (-1.0, 2.0))),
    (r"(^|[_ ])memorised", MetricKind("share", True, (0.0, 1.0))),
    (r"(^|[_ ])(fidelity|clip_t)", MetricKind("cosine", False, (-1.0, 1.0))),
    (r"_difference", MetricKind("difference", True, (0.0, math.inf))),
    (r"real_time_factor", MetricKind("seconds a second", True, (0.0, math.inf))),
    (r"loss(_\dx)?", MetricKind("nats a token", True, (0.0, math.inf), margin=0.005)),
    (r"margin", MetricKind("nats a token", False, (-math.inf, math.inf), margin=0.005)),
    (r"perplexity", MetricKind("perplexity", True, (1.0, math.inf))),
    (r"bits_per_char", MetricKind("bits a character", True, (0.0, math.inf))),
    (r"bytes", MetricKind("bytes", True, (0.0, math.inf))),
    (r"changes", MetricKind("count", True, (0.0, math.inf))),
    (r"mark", MetricKind("mark", False, (1.0, 5.0))),
)
"""(end of the name, kind), the first that fits; a name that fits none is a share."""


def kind_of(metric: str) -> MetricKind:
    """
    >>> kind_of("base_general_wer").unit, kind_of("generate_tokens_per_s").lower_is_better
    ('error rate', False)
    >>> kind_of("hybrid: ndcg@10").unit, kind_of("latency_s").unit
    ('share', 'seconds')
    """
    for ending, kind in KINDS:
        if re.search(f"{ending}$", metric):
            return kind
    return SHARE
