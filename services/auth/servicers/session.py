"""SessionService: signing in and out, and the keys that tokens are verified with."""

from typing import Any

from lepton.auth.v1 import session_service_pb2 as pb
from lepton.auth.v1 import session_service_pb2_grpc
from services.auth.access_revoking import AccessRevoking
from services.auth.convert import caller_to_proto, signing_keys_to_proto
from services.auth.policy import Policy
from services.auth.servicers.caller import the_caller
from services.auth.sessions import Sessions
from services.auth.sign_ins import SignIns
from services.auth.signing_keys import SigningKeys


class SessionServicer(session_service_pb2_grpc.SessionServiceServicer):
    """Serves sessions."""

    def __init__(
        self,
        sign_ins: SignIns,
        sessions: Sessions,
        policy: Policy,
        revoking: AccessRevoking,
        signing_keys: SigningKeys,
    ) -> None:
        self._sign_ins = sign_ins
        self._sessions = sessions
        self._policy = policy
        self._revoking = revoking
        self._signing_keys = signing_keys

    async def SignIn(self, request: pb.SignInRequest, context: Any) -> pb.Session:
        return await self._sign_ins.sign_in(request, context.peer())

    async def RefreshSession(self, request: pb.RefreshSessionRequest, context: Any) -> pb.Session:
        return await self._sessions.refresh(request.refresh_token)

    async def SignOut(self, request: pb.SignOutRequest, context: Any) -> pb.SignOutResponse:
        await self._sessions.sign_out(the_caller())
        return pb.SignOutResponse()

    async def GetCaller(self, request: pb.GetCallerRequest, context: Any) -> pb.Caller:
        return caller_to_proto(the_caller().name, self._policy)

    async def RevokeAccess(self, request: pb.RevokeAccessRequest, context: Any) -> pb.RevokeAccessResponse:
        return pb.RevokeAccessResponse(policy_revision=await self._revoking.revoke(request))

    async def RotateSigningKey(self, request: pb.RotateSigningKeyRequest, context: Any) -> pb.SigningKeys:
        await self._signing_keys.rotate(distrust_former=request.distrust_former)
        return self._keys()

    async def ListSigningKeys(self, request: pb.ListSigningKeysRequest, context: Any) -> pb.SigningKeys:
        return self._keys()

    def _keys(self) -> pb.SigningKeys:
        return signing_keys_to_proto(self._policy.signing_keys.values(), self._signing_keys.signing)

    async def GetJwks(self, request: pb.GetJwksRequest, context: Any) -> pb.Jwks:
        return pb.Jwks(json=self._policy.jwks_json)
