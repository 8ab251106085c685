//! The notation of shiny-server.conf: words end with `;`, blocks stand in braces, `#` begins a comment.

use super::{Kind, Note, Place};

/// `name argument…;` or `name argument… { … }`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directive {
    pub(super) place: Place,
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
    /// `None` when it ends with `;`.
    pub(super) block: Option<Vec<Directive>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Semicolon,
    Open,
    Close,
}

/// No config nests deeper; a file that does is broken.
const DEPTH_AT_MOST: usize = 16;

/// # Errors
/// The first mistake of the notation.
pub(super) fn parse(text: &str) -> Result<Vec<Directive>, Note> {
    let tokens = tokens(text)?;
    let mut at = 0;
    let directives = block(&tokens, &mut at, None, 0)?;
    Ok(directives)
}

fn block(
    tokens: &[(Token, Place)],
    at: &mut usize,
    opened: Option<Place>,
    depth: usize,
) -> Result<Vec<Directive>, Note> {
    let mut directives = Vec::new();
    loop {
        let Some((token, place)) = tokens.get(*at) else {
            return match opened {
                None => Ok(directives),
                Some(place) => Err(wrong(place, "this `{` is never closed")),
            };
        };
        *at += 1;
        match token {
            Token::Close if opened.is_some() => return Ok(directives),
            Token::Close => return Err(wrong(*place, "this `}` closes nothing")),
            Token::Open => return Err(wrong(*place, "a block needs a name before its `{`")),
            Token::Semicolon => {}
            Token::Word(name) => directives.push(directive(tokens, at, name.clone(), *place, depth)?),
        }
    }
}

fn directive(
    tokens: &[(Token, Place)],
    at: &mut usize,
    name: String,
    place: Place,
    depth: usize,
) -> Result<Directive, Note> {
    let mut arguments = Vec::new();
    loop {
        let Some((token, here)) = tokens.get(*at) else {
            return Err(wrong(place, &format!("`{name}` is not ended by a `;`")));
        };
        *at += 1;
        match token {
            Token::Word(word) => arguments.push(word.clone()),
            Token::Semicolon => return Ok(Directive { place, name, arguments, block: None }),
            Token::Close => {
                return Err(wrong(*here, &format!("`{name}` is not ended by a `;` before this `}}`")));
            }
            Token::Open if depth >= DEPTH_AT_MOST => return Err(wrong(*here, "blocks are nested too deep")),
            Token::Open => {
                let inner = block(tokens, at, Some(*here), depth + 1)?;
                return Ok(Directive { place, name, arguments, block: Some(inner) });
            }
        }
    }
}

fn tokens(text: &str) -> Result<Vec<(Token, Place)>, Note> {
    let mut tokens = Vec::new();
    let mut place = Place { line: 1, column: 1 };
    let mut chars = text.chars().peekable();
    let step = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>, place: &mut Place| {
        let c = chars.next();
        match c {
            Some('\n') => *place = Place { line: place.line + 1, column: 1 },
            Some(_) => place.column += 1,
            None => {}
        }
        c
    };
    while let Some(&c) = chars.peek() {
        let start = place;
        match c {
            c if c.is_whitespace() => {
                step(&mut chars, &mut place);
            }
            '#' => {
                while chars.peek().is_some_and(|c| *c != '\n') {
                    step(&mut chars, &mut place);
                }
            }
            ';' | '{' | '}' => {
                step(&mut chars, &mut place);
                let token = match c {
                    ';' => Token::Semicolon,
                    '{' => Token::Open,
                    _ => Token::Close,
                };
                tokens.push((token, start));
            }
            '"' | '\'' => {
                step(&mut chars, &mut place);
                let mut word = String::new();
                loop {
                    match step(&mut chars, &mut place) {
                        Some(end) if end == c => break,
                        Some('\\') => word.extend(step(&mut chars, &mut place)),
                        Some(inside) => word.push(inside),
                        None => return Err(wrong(start, "this quote is never closed")),
                    }
                }
                tokens.push((Token::Word(word), start));
            }
            _ => {
                let mut word = String::new();
                while let Some(&c) = chars.peek().filter(|c| !c.is_whitespace() && !";{}#\"'".contains(**c)) {
                    word.push(c);
                    step(&mut chars, &mut place);
                }
                tokens.push((Token::Word(word), start));
            }
        }
    }
    Ok(tokens)
}

fn wrong(place: Place, text: &str) -> Note {
    Note { place, kind: Kind::Wrong, text: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_quotes_and_comments() {
        let text = "run_as shiny; # who\nserver {\n  listen 3838 127.0.0.1;\n  location '/a b' { app_dir \"/x\\\"y\"; }\n}\n";
        let parsed = parse(text).unwrap();
        assert_eq!(
            (parsed[0].name.as_str(), parsed[0].arguments.as_slice()),
            ("run_as", &["shiny".to_owned()][..])
        );
        let inner = parsed[1].block.as_ref().unwrap();
        assert_eq!(inner[0].arguments, ["3838", "127.0.0.1"]);
        assert_eq!(inner[1].arguments, ["/a b"]);
        let app = &inner[1].block.as_ref().unwrap()[0];
        assert_eq!((app.arguments[0].as_str(), app.place), ("/x\"y", Place { line: 4, column: 21 }));
    }

    #[test]
    fn mistakes_have_a_place() {
        for (text, line, column, says) in [
            ("server {\n listen 1;\n", 1, 8, "never closed"),
            ("a 1;\n}\n", 2, 1, "closes nothing"),
            ("server {\n  listen 1\n}", 3, 1, "`listen` is not ended"),
            ("run_as shiny", 1, 1, "`run_as` is not ended"),
            ("a 'b", 1, 3, "quote is never closed"),
            ("{ }", 1, 1, "needs a name"),
        ] {
            let note = parse(text).unwrap_err();
            assert_eq!(note.place, Place { line, column }, "{text}");
            assert!(note.text.contains(says), "{text}: {}", note.text);
        }
    }
}
