"""How far a prompt's preferences deserve to be believed: estimators of dispersion, and its scale psi."""
