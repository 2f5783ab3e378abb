//! nginx's configuration language: words, quotes, escapes, comments and blocks, as
//! `ngx_conf_read_token` of nginx reads them.

use std::rc::Rc;

use thiserror::Error;

/// Deepest nesting of blocks that is read.
const MAX_DEPTH: usize = 64;

/// Position of a directive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Name of the file.
    pub file: Rc<str>,
    /// Line, from 1.
    pub line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A directive, with its block if it has one.
#[derive(Clone, Debug)]
pub struct Directive {
    /// First word.
    pub name: String,
    /// The other words, without quotes and escapes.
    pub arguments: Vec<String>,
    /// Directives of the block.
    pub block: Option<Vec<Directive>>,
    /// Position of the name.
    pub place: Place,
}

impl Directive {
    /// The first argument, or nothing.
    pub fn first(&self) -> &str {
        self.arguments.first().map_or("", String::as_str)
    }

    /// Directives of the block; none without a block.
    pub fn children(&self) -> &[Directive] {
        self.block.as_deref().unwrap_or_default()
    }
}

/// Error of [`parse`]. The message names file and line.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message} in {place}")]
pub struct SyntaxError {
    message: &'static str,
    place: Place,
}

enum Token {
    Word(String),
    End,
    Open,
    Close,
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    line: usize,
    file: Rc<str>,
}

/// Reads the text of one file. `include` stays a directive.
///
/// # Errors
///
/// A text that nginx would refuse for its syntax.
pub fn parse(file: &str, text: &str) -> Result<Vec<Directive>, SyntaxError> {
    let mut reader = Reader { text: text.as_bytes(), at: 0, line: 1, file: file.into() };
    let mut open: Vec<(Directive, Vec<Directive>)> = Vec::new();
    let mut here: Vec<Directive> = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut place = reader.place();
    loop {
        reader.skip_space();
        if words.is_empty() {
            place = reader.place();
        }
        let Some(token) = reader.token()? else { break };
        match token {
            Token::Word(word) => words.push(word),
            Token::End => {
                let directive = directive(&mut words, None, &place);
                here.push(directive.ok_or(reader.error("unexpected \";\""))?);
            }
            Token::Open => {
                let opened = directive(&mut words, Some(Vec::new()), &place);
                let mut opened = opened.ok_or(reader.error("unexpected \"{\""))?;
                if opened.name.ends_with("_by_lua_block") {
                    reader.skip_lua()?;
                    opened.block = None;
                    here.push(opened);
                } else if open.len() == MAX_DEPTH {
                    return Err(reader.error("too many nested blocks"));
                } else {
                    open.push((opened, std::mem::take(&mut here)));
                }
            }
            Token::Close => {
                if !words.is_empty() {
                    return Err(reader.error("unexpected \"}\""));
                }
                let (mut closed, outer) = open.pop().ok_or(reader.error("unexpected \"}\""))?;
                closed.block = Some(std::mem::replace(&mut here, outer));
                here.push(closed);
            }
        }
    }
    if !words.is_empty() || !open.is_empty() {
        return Err(reader.error("unexpected end of file, expecting \";\" or \"}\""));
    }
    Ok(here)
}

fn directive(
    words: &mut Vec<String>,
    block: Option<Vec<Directive>>,
    place: &Place,
) -> Option<Directive> {
    let mut words = std::mem::take(words).into_iter();
    let name = words.next()?;
    Some(Directive { name, arguments: words.collect(), block, place: place.clone() })
}

impl Reader<'_> {
    fn place(&self) -> Place {
        Place { file: Rc::clone(&self.file), line: self.line }
    }

    fn error(&self, message: &'static str) -> SyntaxError {
        SyntaxError { message, place: self.place() }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        if byte == b'\n' {
            self.line += 1;
        }
        Some(byte)
    }

    fn skip_space(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => {
                    self.next();
                }
                b'#' => while self.next().is_some_and(|byte| byte != b'\n') {},
                _ => break,
            }
        }
    }

    /// The next token, after [`skip_space`](Self::skip_space).
    fn token(&mut self) -> Result<Option<Token>, SyntaxError> {
        let Some(first) = self.peek() else { return Ok(None) };
        let single = match first {
            b';' => Some(Token::End),
            b'{' => Some(Token::Open),
            b'}' => Some(Token::Close),
            _ => None,
        };
        if single.is_some() {
            self.next();
            return Ok(single);
        }
        if let b'"' | b'\'' = first {
            self.next();
            let word = self.word(Some(first))?;
            // As in nginx: `)` is of `if ("$a" = "b")`.
            return match self.peek() {
                None | Some(b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{') => {
                    Ok(Some(Token::Word(word)))
                }
                Some(b')') => {
                    self.next();
                    Ok(Some(Token::Word(word + ")")))
                }
                Some(_) => Err(self.error("unexpected character after a quoted word")),
            };
        }
        self.word(None).map(Token::Word).map(Some)
    }

    /// A word up to its end: the quote, or what separates words.
    fn word(&mut self, quote: Option<u8>) -> Result<String, SyntaxError> {
        let mut word = Vec::new();
        let mut after_dollar = false;
        loop {
            let Some(byte) = self.peek() else {
                if quote.is_some() {
                    return Err(self.error("unexpected end of file in a quoted word"));
                }
                break;
            };
            let ends = match quote {
                Some(quote) => byte == quote,
                None => match byte {
                    b' ' | b'\t' | b'\r' | b'\n' | b';' => true,
                    b'{' => !after_dollar,
                    _ => false,
                },
            };
            if ends {
                if quote.is_some() {
                    self.next();
                }
                break;
            }
            self.next();
            after_dollar = byte == b'$';
            if byte != b'\\' {
                word.push(byte);
                continue;
            }
            match self.next() {
                Some(escaped @ (b'"' | b'\'' | b'\\')) => word.push(escaped),
                Some(b't') => word.push(b'\t'),
                Some(b'r') => word.push(b'\r'),
                Some(b'n') => word.push(b'\n'),
                Some(other) => word.extend([b'\\', other]),
                None => word.push(b'\\'),
            }
        }
        Ok(String::from_utf8_lossy(&word).into_owned())
    }

    /// Skips Lua up to the brace that ends its block: braces count outside of strings and comments.
    fn skip_lua(&mut self) -> Result<(), SyntaxError> {
        let mut depth = 1usize;
        while let Some(byte) = self.next() {
            match byte {
                b'{' => depth += 1,
                b'}' => {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                b'"' | b'\'' => {
                    while let Some(next) = self.next().filter(|next| *next != byte) {
                        if next == b'\\' {
                            self.next();
                        }
                    }
                }
                b'[' => self.skip_long_bracket(),
                b'-' if self.peek() == Some(b'-') => {
                    self.next();
                    if self.peek() == Some(b'[') && self.long_bracket(self.at + 1).is_some() {
                        self.next();
                        self.skip_long_bracket();
                    } else {
                        while self.next().is_some_and(|byte| byte != b'\n') {}
                    }
                }
                _ => {}
            }
        }
        Err(self.error("unexpected end of file in a block of Lua"))
    }

    /// The number of `=` of a long bracket whose first `[` is just before `at`.
    fn long_bracket(&self, at: usize) -> Option<usize> {
        let rest = self.text.get(at..)?;
        let level = rest.iter().take_while(|byte| **byte == b'=').count();
        (rest.get(level) == Some(&b'[')).then_some(level)
    }

    fn skip_long_bracket(&mut self) {
        let Some(level) = self.long_bracket(self.at) else { return };
        let end = [b"]".as_slice(), &vec![b'='; level], b"]"].concat();
        while self.at < self.text.len() {
            if self.text.get(self.at..).is_some_and(|rest| rest.starts_with(&end)) {
                self.at += end.len();
                return;
            }
            self.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shape(directives: &[Directive]) -> String {
        let one = |directive: &Directive| {
            let words = [&directive.name].into_iter().chain(&directive.arguments);
            let words: Vec<_> = words.map(|word| format!("<{word}>")).collect();
            match &directive.block {
                Some(block) => format!("{}{{{}}}", words.concat(), shape(block)),
                None => words.concat(),
            }
        };
        directives.iter().map(one).collect::<Vec<_>>().join(";")
    }

    #[track_caller]
    fn reads(text: &str, expected: &str) {
        assert_eq!(shape(&parse("f", text).expect("valid")), expected, "{text}");
    }

    #[test]
    fn words_quotes_escapes_and_comments_are_those_of_nginx() {
        reads("a b;c {d \"e f\" 'g;{}';}", "<a><b>;<c>{<d><e f><g;{}>}");
        reads("a # b;\n c;", "<a><c>");
        reads("a b#c;", "<a><b#c>");
        reads(r#"a "\"\\\'" \d\.x b\;c;"#, r#"<a><"\'><\d\.x><b\;c>"#);
        reads(r"a '\n\t\r';", "<a><\n\t\r>");
        reads("if ($a = \"b\") { return 200; }", "<if><($a><=><b)>{<return><200>}");
        reads("location ~ ^/a${b}c$ {}", "<location><~><^/a${b}c$>{}");
        reads("a b'c;", "<a><b'c>");
    }

    #[test]
    fn lua_is_skipped_whole() {
        let lua =
            "content_by_lua_block { local a = { '}', \"\\\"}\", [[ } ]], [=[ ]] } ]=] } -- }\n \
                   --[[ }\n } ]] ngx.say(a[1]) } b;";
        reads(lua, "<content_by_lua_block>;<b>");
    }

    #[test]
    fn wrong_syntax_is_refused_with_its_line() {
        for (text, message) in [
            ("\n;", "unexpected \";\" in f:2"),
            ("{}", "unexpected \"{\" in f:1"),
            ("a;}", "unexpected \"}\" in f:1"),
            ("a {b }", "unexpected \"}\" in f:1"),
            ("a {", "unexpected end of file, expecting \";\" or \"}\" in f:1"),
            ("a", "unexpected end of file, expecting \";\" or \"}\" in f:1"),
            ("a 'b", "unexpected end of file in a quoted word in f:1"),
            ("a 'b'c;", "unexpected character after a quoted word in f:1"),
            ("x_by_lua_block { '", "unexpected end of file in a block of Lua in f:1"),
        ] {
            assert_eq!(parse("f", text).expect_err(text).to_string(), message);
        }
        assert!(parse("f", &"a{".repeat(100_000)).is_err());
    }

    #[test]
    fn a_directive_has_the_line_of_its_name() {
        let read = parse("f", "a;\n\n b\n c;\n d {\n e;\n}").expect("valid");
        let lines: Vec<_> = read.iter().map(|directive| directive.place.line).collect();
        assert_eq!(lines, [1, 3, 5]);
        assert_eq!(read[2].children()[0].place.line, 6);
    }

    fn quoted(word: &str) -> String {
        format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
    }

    proptest! {
        #[test]
        fn quoted_words_are_read_back(words in prop::collection::vec(".{0,20}", 1..6)) {
            let text = words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ") + ";";
            let read = parse("f", &text).expect("valid");
            prop_assert_eq!(read.len(), 1);
            let back: Vec<_> = std::iter::once(&read[0].name).chain(&read[0].arguments).collect();
            prop_assert_eq!(back, words.iter().collect::<Vec<_>>());
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[a-z{}\\[\\]=;'\"\\\\#$\n -]{0,80}|.{0,40}") {
            let _ = parse("f", &text);
            let _ = parse("f", &format!("x_by_lua_block {{{text}"));
        }

        #[test]
        fn comments_and_space_change_nothing(words in prop::collection::vec("[a-z]{1,5}", 1..6),
                                             gap in "( |\n|\t|# x;\\{\n)") {
            let plain = parse("f", &(words.join(" ") + ";")).expect("valid");
            let spaced = parse("f", &(words.join(&format!(" {gap}")) + " ;")).expect("valid");
            prop_assert_eq!(shape(&plain), shape(&spaced));
        }
    }
}
