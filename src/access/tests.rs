//! Tables of who gets in.
