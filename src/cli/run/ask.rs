//! A question with a numbered list, put to whoever sits at the terminal.

use std::io::{BufRead, Write};

/// How often a question is put that is answered neither way.
const TRIES: usize = 4;

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The item with this index.
    Item(usize),
    /// Something that is not in the list.
    Typed(String),
}

/// A question.
pub(super) struct Question<'a> {
    /// What is asked.
    pub(super) asked: &'a str,
    /// What there is to choose from.
    pub(super) items: &'a [String],
    /// What the last item says, which stands for something else.
    pub(super) other: &'a str,
    /// What is asked for then.
    pub(super) type_it: &'a str,
}

impl Question<'_> {
    /// Puts it. `check` says what is wrong with something typed. `None` when it was not answered.
    pub(super) fn put(
        &self,
        input: &mut impl BufRead,
        output: &mut impl Write,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Option<Answer> {
        let mut list = format!("\n{}\n\n", self.asked);
        for (number, item) in self.items.iter().map(String::as_str).chain([self.other]).enumerate() {
            list.push_str(&format!("  {:>2}) {item}\n", number + 1));
        }
        list.push('\n');
        output.write_all(list.as_bytes()).ok()?;
        let other = self.items.len() + 1;
        let mut prompt = if self.items.is_empty() {
            format!("{} ", self.type_it)
        } else {
            format!("Type a number from 1 to {other} [1]: ")
        };
        for _ in 0..TRIES {
            output.write_all(prompt.as_bytes()).and_then(|()| output.flush()).ok()?;
            let mut line = String::new();
            if input.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let typed = line.trim().trim_matches('"');
            match typed.parse::<usize>() {
                _ if typed.is_empty() && !self.items.is_empty() && prompt.starts_with("Type a number") => {
                    return Some(Answer::Item(0));
                }
                Ok(number) if (1..other).contains(&number) => return Some(Answer::Item(number - 1)),
                Ok(number) if number == other => prompt = format!("{} ", self.type_it),
                // A bare number is no path and no address.
                Ok(_) => {}
                Err(_) if typed.is_empty() => {}
                Err(_) => match check(typed) {
                    Ok(()) => return Some(Answer::Typed(typed.to_owned())),
                    Err(wrong) => output.write_all(format!("{wrong}\n").as_bytes()).ok()?,
                },
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn asked(items: &[&str], typed: &str) -> (Option<Answer>, String) {
        let items: Vec<_> = items.iter().map(|&item| item.to_owned()).collect();
        let question = Question { asked: "Which?", items: &items, other: "another", type_it: "Its path:" };
        let mut output = Vec::new();
        let check = |text: &str| if text.contains('/') { Ok(()) } else { Err(format!("{text} is no path")) };
        let answer = question.put(&mut typed.as_bytes(), &mut output, check);
        (answer, String::from_utf8(output).unwrap())
    }

    #[test]
    fn a_number_a_typed_answer_or_just_enter() {
        let two = ["Firestorm", "Kokua"];
        let typed = |text: &str| Some(Answer::Typed(text.into()));
        for (line, answer) in [
            ("2\n", Some(Answer::Item(1))),
            ("\n", Some(Answer::Item(0))),
            ("3\n/opt/x y\n", typed("/opt/x y")),
            ("\"/opt/x\"\n", typed("/opt/x")),
            ("9\nhm\n1\n", Some(Answer::Item(0))),
            ("3\n\n\n\n1\n", None),
            ("", None),
        ] {
            assert_eq!(asked(&two, line).0, answer, "{line:?}");
        }
        assert_eq!(asked(&[], "\n/opt/x\n").0, typed("/opt/x"));
    }

    #[test]
    fn the_list_is_numbered_and_a_wrong_answer_is_told() {
        let (_, text) = asked(&["Firestorm"], "nonsense\n1\n");
        assert!(text.contains("   1) Firestorm\n   2) another\n"), "{text}");
        assert!(text.contains("[1]: nonsense is no path\n"), "{text}");
    }
}
