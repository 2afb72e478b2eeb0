// POP3 by node-pop3: pop3.cjs HOST PORT Implicit|Plain CA USER PASSWORD

const assert = require("node:assert");
const fs = require("node:fs");
const Pop3Command = require("node-pop3");

const [host, port, channel, ca, user, password] = process.argv.slice(2);

// What comes as a stream is octets, its dots still doubled; RETR() would make it text.
async function retrieve(client, number) {
    const [, stream] = await client.command("RETR", number);
    const parts = [];
    for await (const part of stream) {
        parts.push(part);
    }
    return Buffer.concat(parts);
}

async function main() {
    const client = new Pop3Command({
        host,
        port: Number(port),
        user,
        password,
        tls: channel === "Implicit",
        tlsOptions: { ca: fs.readFileSync(ca) },
        timeout: 50000,
    });
    const list = await client.UIDL();
    assert.strictEqual(list.length, 3);
    fs.mkdirSync("fetched");
    for (const [number] of list) {
        fs.writeFileSync(`fetched/${number}`, await retrieve(client, number));
    }
    await client.DELE(2);
    await client.QUIT();
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
