//! `ebbtide-fleet`.

fn main() {}
