//! Secrets do not belong in logs and errors; what others say is passed through here first.

/// Hides user names and passwords of URIs within a text.
pub fn uris(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(scheme) = rest.find("://") {
        let (before, after) = rest.split_at(scheme + 3);
        out.push_str(before);
        let end = after.find(['/', '?', ' ', '"', '\'', ')', '>', '\n']).unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        match authority.rfind('@') {
            Some(at) => {
                out.push_str("***");
                out.push_str(&authority[at..]);
            }
            None => out.push_str(authority),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::uris;

    #[test]
    fn user_info_is_hidden_and_hosts_stay() {
        for (text, shown) in [
            ("no uri", "no uri"),
            ("mongodb://a.example:1/?x=1", "mongodb://a.example:1/?x=1"),
            ("at mongodb://u:p%40@h1,h2/db failed", "at mongodb://***@h1,h2/db failed"),
            ("\"mongodb+srv://u:p@ss@h\"", "\"mongodb+srv://***@h\""),
        ] {
            assert_eq!(uris(text), shown);
        }
    }
}
