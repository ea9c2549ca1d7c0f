"""What the compiled step does and costs: traces, reports, its HLO, the time of a start."""
