"""The ablation: what each part of the method adds on fashion-products, beside rival methods.

`rows` says what is compared, `training` trains it, `rivals` are other methods on the same frozen
features, `validation` measures, `store` remembers, and `report` puts the figures into
``docs/method.md``, each claim with its verdict.
"""
