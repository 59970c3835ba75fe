"""Answer prompt sets with several variants, score the answers, and turn the scores into figures with intervals."""
