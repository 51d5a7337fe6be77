"""What groups lose by curvature: the mean of the Hessian's diagonal over a group's weights, times their squared error.

A group loses tr / n · sum d_i²: tr the trace over its n weights of the Hessian of half the squared movement of the
answers, d_i what each weight is off by. The trace is the mean of |J's|² over random signs s on the answers, which is
Hutchinson's estimate of that of J J': no term of it is below zero, nor does one group's noise get into another's, as it
would by signs on the weights of all of them. Activations are not looked at: it ranks groups, and suits what quantizes
weights alone.

Source: HAWQ-V2, arXiv:1911.03852, there with the Hessian of a loss of labels; traces by random signs: Hutchinson 1989;
the Gauss-Newton matrix in the Hessian's place: Martens, arXiv:1412.1193.
"""

from __future__ import annotations

from dataclasses import dataclass

from avcompress.search.sensitivity.derivatives import Block, Derivatives, Sums


@dataclass(frozen=True, eq=False)
class HessianError(Derivatives):
    """Mean curvature times squared error, of weights."""

    def __call__(self, block: Block) -> Sums:
        """Summed over some images."""
        traces = dict.fromkeys(self.weights, 0.0)
        for number in block:
            for name, squares in self.slopes(number)[0].items():
                traces[name] += float(squares.sum())
        sums = self.zeros()
        for group, precision in self.cases:
            names = [name for name in self.constants[group] if name in traces]
            count = sum(self.weights[name].numel() for name in names)
            errors = self.squared_errors[precision]
            squared = sum(float(errors[name].sum()) for name in names if name in errors)
            sums[group][precision] = sum(traces[name] for name in names) / max(count, 1) * squared
        return sums
