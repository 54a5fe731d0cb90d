"""The RPCs of GRPCInferenceService by the names under which Ray Serve calls a deployment."""

from apps.protocol import grpc_protocol_pb2 as pb
from apps.protocol.grpc_servicer import Context, Servicer


class GrpcMethods:
    """What a deployment inherits; it sets `grpc`. Serve hands the call's context over by the name `grpc_context`."""

    grpc: Servicer

    async def ServerLive(self, request: pb.ServerLiveRequest, grpc_context: Context) -> pb.ServerLiveResponse:  # noqa: N802
        return await self.grpc.server_live(request, grpc_context)

    async def ServerReady(  # noqa: N802
        self, request: pb.ServerReadyRequest, grpc_context: Context
    ) -> pb.ServerReadyResponse:
        return await self.grpc.server_ready(request, grpc_context)

    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, grpc_context: Context
    ) -> pb.ServerMetadataResponse:
        return await self.grpc.server_metadata(request, grpc_context)

    async def ModelReady(  # noqa: N802
        self, request: pb.ModelReadyRequest, grpc_context: Context
    ) -> pb.ModelReadyResponse:
        return await self.grpc.model_ready(request, grpc_context)

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, grpc_context: Context
    ) -> pb.ModelMetadataResponse:
        return await self.grpc.model_metadata(request, grpc_context)

    async def ModelConfig(  # noqa: N802
        self, request: pb.ModelConfigRequest, grpc_context: Context
    ) -> pb.ModelConfigResponse:
        return await self.grpc.model_config(request, grpc_context)

    async def ModelStatistics(  # noqa: N802
        self, request: pb.ModelStatisticsRequest, grpc_context: Context
    ) -> pb.ModelStatisticsResponse:
        return await self.grpc.model_statistics(request, grpc_context)

    async def ModelInfer(  # noqa: N802
        self, request: pb.ModelInferRequest, grpc_context: Context
    ) -> pb.ModelInferResponse:
        return await self.grpc.model_infer(request, grpc_context)
