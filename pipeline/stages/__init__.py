"""One module a DVC stage: a `main()` that reads params.yaml, calls ganlib, writes its outs."""
