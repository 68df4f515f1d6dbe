//! `ebbtide`.

fn main() {}
