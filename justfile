# Recipes for daily work; `.ci/run` is what a change has to pass.

# What `cargo run --release` does.
run *ARGS:
    cargo run --release -- {{ARGS}}

test *ARGS:
    cargo test {{ARGS}}

lint:
    .ci/run tools format clippy docs scripts prose deny

# Everything, or the named steps.
ci *STEPS:
    .ci/run {{STEPS}}

bench *ARGS:
    cargo bench {{ARGS}}

# One fuzz target for a while: `just fuzz yamux 600`.
fuzz TARGET SECONDS="60":
    cargo fuzz run --sanitizer none {{TARGET}} -- -max_total_time={{SECONDS}}

# Waystation beside rust-libp2p's relay: `just compare --json`.
compare *ARGS:
    cargo run --release -p loadtest -- compare {{ARGS}}

docs:
    cargo doc --workspace --no-deps --document-private-items --open

# What systemd thinks of the unit's sandbox.
exposure:
    systemd-analyze security --offline=true systemd/waystation.service

# The role against a throw-away host of its own (root).
host:
    .ci/run tools host

# A browser against `cargo build`'s server.
interop:
    .ci/run tools interop
