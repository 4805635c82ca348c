"""What a failed comparison with a golden file says."""

ANOTHER = "no longer what is generated: if that was meant, run with --update-golden and say why"
