"""What runs inside a sandbox: standard library only, no other module of milepost."""
