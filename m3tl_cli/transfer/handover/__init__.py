"""Ways of handing over what was learnt."""
