"""What another implementation of NTLM says, one line a fact, in hex.

Reads lines from standard input:
  verify CHALLENGE AUTHENTICATE USER DOMAIN PASSWORD TEXT
  answer CHALLENGE USER DOMAIN PASSWORD TEXT
  verify_mic, answer_mic: the same by pyspnego, which knows the MIC; impacket does not
(messages in base64, TEXT what is to be signed, in hex)
"""
import base64
import hashlib
import hmac
import os
import struct
import sys
import tempfile

import spnego._ntlm
from Cryptodome.Cipher import ARC4
from impacket import ntlm
from spnego._ntlm_raw.messages import Authenticate, Challenge

SEQUENCE = struct.pack("<I", 100)


def signature(flags, key, mode, text):
    """Datagram mode: the key of the stream is made anew for each message (MS-NLMP 3.4.4, 3.4.5.3)."""
    sign = ntlm.SIGNKEY(flags, key, mode)
    seal = hashlib.md5(ntlm.SEALKEY(flags, key, mode) + SEQUENCE).digest()
    mac = ntlm.MAC(flags, ARC4.new(seal).encrypt, sign, 100, text)
    return mac.getData()


def verify(challenge, authenticate, user, domain, password, text):
    challenge = ntlm.NTLMAuthChallenge(base64.b64decode(challenge))
    authenticate = base64.b64decode(authenticate)
    answer = ntlm.NTLMAuthChallengeResponse()
    answer.fromString(authenticate)
    # It does not read this field where a version precedes the payload.
    length, _, offset = struct.unpack_from("<HHI", authenticate, 52)
    encrypted = authenticate[offset:offset + length]
    key = ntlm.NTOWFv2(user, password, domain)
    response = answer["ntlm"]
    proof = hmac.new(key, challenge["challenge"] + response[16:], "md5").digest()
    print("proof", "right" if proof == response[:16] else "wrong")
    names = answer["user_name"].decode("utf-16le"), answer["domain_name"].decode("utf-16le")
    print("names", "right" if names == (user, domain) else "wrong")
    base = hmac.new(key, proof, "md5").digest()
    session = ARC4.new(base).decrypt(encrypted)
    for mode in ("Client", "Server"):
        print(mode, signature(answer["flags"], session, mode, text).hex())


def answer(challenge, user, domain, password, text):
    negotiate = ntlm.getNTLMSSPType1("LOADGEN", domain, True)
    negotiate["flags"] |= 0x40 | 0x100000 | 0x800000
    reply, session = ntlm.getNTLMSSPType3(negotiate, base64.b64decode(challenge), user, password, domain)
    print("authenticate", base64.b64encode(reply.getData()).decode())
    for mode in ("Client", "Server"):
        print(mode, signature(reply["flags"], session, mode, text).hex())


class Nothing:
    """What a connectionless exchange has for a NEGOTIATE."""

    def pack(self):
        return b""


def spoken(usage, user, domain, password):
    """A context of pyspnego that believes that its NEGOTIATE was sent: hence the one version of it."""
    account = f"{domain}\\{user}"
    if usage == "initiate":
        context = spnego._ntlm.NTLMProxy(account, password, usage=usage, protocol="ntlm")
    else:
        with tempfile.NamedTemporaryFile("w", delete=False) as accounts:
            accounts.write(f"{domain}:{user}:{password}\n")
        os.environ["NTLM_USER_FILE"] = accounts.name
        context = spnego._ntlm.NTLMProxy(usage=usage, protocol="ntlm")
    context._temp_negotiate = Nothing()
    return context


def signed(context, text):
    for mode in ("Client", "Server"):
        print(mode, signature(int(context._context_attr), context._session_key, mode, text).hex())


def verify_mic(challenge, authenticate, user, domain, password, text):
    authenticate = base64.b64decode(authenticate)
    mic = Authenticate.unpack(authenticate).mic
    print("mic", mic.hex() if mic else "none")
    context = spoken("accept", user, domain, password)
    context._temp_challenge = Challenge.unpack(base64.b64decode(challenge))
    try:
        context._step_accept(authenticate)
    except Exception as refusal:
        print("refused", refusal)
    else:
        print("proof right")
        signed(context, text)
    os.unlink(os.environ["NTLM_USER_FILE"])


def answer_mic(challenge, user, domain, password, text):
    context = spoken("initiate", user, domain, password)
    print("authenticate", base64.b64encode(context._step_initiate(base64.b64decode(challenge))).decode())
    signed(context, text)


for line in sys.stdin:
    words = line.split()
    text = bytes.fromhex(words[-1])
    speaks = {"verify": verify, "answer": answer, "verify_mic": verify_mic, "answer_mic": answer_mic}
    speaks[words[0]](*words[1:-1], text)
    print("end", flush=True)
