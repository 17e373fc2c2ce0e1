"""Speed against peers and quality on public data. ``python -m benchmarks NAME [--quick]``; lines of JSON on stdout."""
