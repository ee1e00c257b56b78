"""The ablation: what each part of the method adds on fashion-products, beside rival methods.

`rows` defines the comparisons, `training` trains them, `rivals` are other methods on the same
frozen features, `validation` measures, `store` keeps results, and `report` writes the figures and
verdicts of ``docs/method.md``.
"""
