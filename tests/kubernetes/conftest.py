"""The tests of `deploy/helm` and `deploy/kubernetes`."""
