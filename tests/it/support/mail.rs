//! PyPI's `aiosmtpd`: a mail server as others wrote it, and Python's reader of mail.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::within;
use crate::service::tools;

const SERVER: &str = r#"
import asyncio, email, email.policy, json, ssl, sys
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

config = json.loads(sys.argv[1])

def say(what):
    print(json.dumps(what), flush=True)

class Handler:
    async def handle_DATA(self, server, session, envelope):
        if config["answers"]:
            answer = config["answers"].pop(0)
            if answer != "250":
                return answer
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        say({
            "from": envelope.mail_from, "to": envelope.rcpt_tos, "subject": mail["subject"],
            "headers": [name.lower() for name in mail.keys()], "body": mail.get_content(),
            "tls": session.ssl is not None, "login": getattr(session, "auth_data", None) is not None,
            "ascii": envelope.content.isascii(),
        })
        return "250 taken"

def authenticate(server, session, envelope, mechanism, data):
    good = isinstance(data, LoginPassword) and [data.login.decode(), data.password.decode()] == config["login"]
    return AuthResult(success=good, handled=False, auth_data=data if good else None)

async def main():
    context = None
    if config["certificate"]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(config["certificate"])
    wrapped = config["wrapped"]
    options = {"tls_context": None if wrapped else context, "require_starttls": bool(context) and not wrapped}
    if config["login"]:
        options.update(auth_required=True, authenticator=authenticate, auth_require_tls=bool(context) and not wrapped)
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(Handler(), **options), "127.0.0.1", config["port"], ssl=context if wrapped else None)
    say(server.sockets[0].getsockname()[1])
    await server.serve_forever()

asyncio.run(main())
"#;

/// What a mail server demands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Demands {
    /// A file with a certificate and its key.
    pub(crate) certificate: Option<String>,
    /// TLS from the first byte, not after STARTTLS.
    pub(crate) wrapped: bool,
    pub(crate) login: Option<(String, String)>,
    /// Answers to the first messages; `250` takes one.
    pub(crate) answers: Vec<&'static str>,
    pub(crate) port: u16,
}

pub(crate) struct MailServer {
    process: Child,
    pub(crate) port: u16,
    mails: mpsc::UnboundedReceiver<Value>,
}

impl MailServer {
    pub(crate) async fn start(demands: Demands) -> Self {
        let config = json!({
            "certificate": demands.certificate, "wrapped": demands.wrapped, "login": demands.login,
            "answers": demands.answers, "port": demands.port,
        });
        let mut process = Command::new(tools().join("python"))
            .args(["-c", SERVER, &config.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        let (said, mut mails) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let _ = said.send(serde_json::from_str::<Value>(&line).unwrap());
            }
        });
        let port = within(mails.recv()).await.expect("the mail server starts").as_u64().unwrap();
        Self { process, port: u16::try_from(port).unwrap(), mails }
    }

    /// The next mail.
    pub(crate) async fn next(&mut self) -> Value {
        within(self.mails.recv()).await.expect("a mail")
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.mails.is_empty()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
