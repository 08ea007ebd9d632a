//! What gRPC clients are told where the app does not answer over HTTP/1.1, by which it is reached.

/// `UNIMPLEMENTED` (12) as gRPC says it: the header fields of a 200 without a body.
pub const UNSUPPORTED: [(&str, &str); 3] = [
    ("content-type", "application/grpc"),
    ("grpc-status", "12"),
    (
        "grpc-message",
        "gRPC is not supported here: requests reach the app as HTTP/1.1, and gRPC needs HTTP/2 all \
         the way. Let gRPC clients reach the app past this proxy",
    ),
];

/// Whether a request with this `Content-Type` is one of gRPC. gRPC-Web is another matter: it is made for
/// HTTP/1.1.
pub fn is_grpc(content_type: &[u8]) -> bool {
    const NAME: &[u8] = b"application/grpc";
    let Some((name, rest)) = content_type.split_at_checked(NAME.len()) else { return false };
    let is_end = |byte: &u8| matches!(byte, b'+' | b';' | b' ' | b'\t');
    name.eq_ignore_ascii_case(NAME) && rest.first().is_none_or(is_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_and_its_neighbours() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("Application/gRPC", true),
            ("APPLICATION/GRPC+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc ; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/gRPC-Web+proto", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_grpc(content_type.as_bytes()), expected, "{content_type}");
        }
    }
}
