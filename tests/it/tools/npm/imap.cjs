// IMAP by imapflow: imap.cjs HOST PORT Implicit|Plain|StartTls CA USER PASSWORD

const assert = require("node:assert");
const fs = require("node:fs");
const { ImapFlow } = require("imapflow");

const [host, port, channel, ca, user, password] = process.argv.slice(2);

async function fetchAll(client, folder) {
    fs.mkdirSync(folder);
    const messages = [];
    for await (const message of client.fetch("1:*", { uid: true, source: true, flags: true })) {
        fs.writeFileSync(`${folder}/${message.uid}`, message.source);
        messages.push(message);
    }
    return messages;
}

async function main() {
    const client = new ImapFlow({
        host,
        port: Number(port),
        secure: channel === "Implicit",
        doSTARTTLS: channel === "StartTls",
        tls: { ca: fs.readFileSync(ca) },
        auth: { user, pass: password },
        logger: false,
    });
    await client.connect();
    await client.mailboxOpen("INBOX");
    const messages = await fetchAll(client, "fetched");
    await client.mailboxCreate("Copies");
    for (const message of messages) {
        await client.append("Copies", message.source, ["\\Seen"], new Date(0));
    }
    await client.messageCopy("1", "Copies");
    await client.messageDelete("1");
    assert.strictEqual(client.mailbox.exists, 2);
    await client.mailboxOpen("Copies");
    assert.strictEqual(client.mailbox.exists, 4);
    assert.deepStrictEqual(await client.search({ seen: true }), [1, 2, 3]);
    await client.messageFlagsAdd("4", ["\\Flagged"]);
    assert.deepStrictEqual(await client.search({ flagged: true }), [4]);
    await client.messageDelete("4");
    await fetchAll(client, "appended");
    await client.mailboxClose();
    await client.mailboxDelete("Copies");
    await client.logout();
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
