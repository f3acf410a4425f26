FROM mcr.microsoft.com/dotnet/sdk:10.0.401 AS build
WORKDIR /source

# A separate layer, which is rebuilt only if a dependency changes. The lock file pins every package by its hash.
COPY global.json Directory.Build.props Directory.Packages.props ./
COPY .config .config
COPY src/Directory.Build.targets src/
COPY src/CachingApi.Redis/CachingApi.Redis.csproj src/CachingApi.Redis/packages.lock.json src/CachingApi.Redis/
COPY src/CachingApi.Caching/CachingApi.Caching.csproj src/CachingApi.Caching/packages.lock.json src/CachingApi.Caching/
COPY src/CachingApi/CachingApi.csproj src/CachingApi/packages.lock.json src/CachingApi/
RUN dotnet tool restore && dotnet restore src/CachingApi --locked-mode --use-current-runtime -p:PublishReadyToRun=true

COPY . .
RUN dotnet publish src/CachingApi --no-restore -c Release --use-current-runtime --self-contained false -p:PublishReadyToRun=true -o /app
# The software bill of materials: every package that the service is built from, in CycloneDX format.
RUN dotnet CycloneDX src/CachingApi/CachingApi.csproj --disable-package-restore --base-intermediate-output-path /source/artifacts \
    --set-name CachingApi --output-format Json --output /app --filename sbom.cdx.json

FROM mcr.microsoft.com/dotnet/aspnet:10.0.12
WORKDIR /app
COPY --from=build /app .
USER $APP_UID
EXPOSE 8080
# The image has no curl, but it has bash.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
  CMD ["bash", "-c", "exec 3<>/dev/tcp/localhost/8080 && printf 'GET /health/live HTTP/1.0\\r\\n\\r\\n' >&3 && head -n 1 <&3 | grep -q ' 200 '"]
ENTRYPOINT ["dotnet", "CachingApi.dll"]
